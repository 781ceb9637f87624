"""The metrics of a run, served over HTTP beside the trainer.

`families` says what they are, `collector` makes them at each scrape; `server` holds the connections,
`answers` says what they get, `listening` where. Importing this imports none: prometheus_client takes time.

Not covered: reading the run (`harness.watch`), who serves (`harness.supervise.serving`).
"""
