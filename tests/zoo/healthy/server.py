"""A server that waits for requests by design."""

import http.server

TRUTH = {"state": "healthy", "cause": "healthy"}


def main():
    server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    print("READY", flush=True)
    server.serve_forever()


main()
