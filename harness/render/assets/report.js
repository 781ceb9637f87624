"use strict";
(() => {
  const all = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const faded = (text, share) => text + Math.round(share * 255).toString(16).padStart(2, "0");
  const present = (value) => value !== null && value !== undefined;

  // ---- numbers for people

  const scaled = (value, step, units) => {
    let at = 0;
    while (Math.abs(value) >= step * 0.9995 && at < units.length - 1) { value /= step; at += 1; }
    return [value, units[at]];
  };
  const digits = (value, most) => {
    const text = Number(value.toPrecision(most));
    return Math.abs(text) >= 1e6 || (text !== 0 && Math.abs(text) < 1e-4) ? text.toExponential() : String(text);
  };
  const clock = (seconds) => {
    const whole = Math.round(seconds), h = Math.floor(whole / 3600), m = Math.floor(whole % 3600 / 60);
    const two = (n) => String(n).padStart(2, "0");
    if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
    return h ? `${h}:${two(m)}:${two(whole % 60)}` : `${m}:${two(whole % 60)}`;
  };
  const shown = {
    number: (v) => digits(v, 4),
    rate: (v) => v === 0 ? "0" : v.toExponential(2).replace(/e([+-])0*/, "e$1").replace("e+", "e"),
    count: (v) => { const [n, unit] = scaled(v, 1000, ["", "k", "M", "G", "T"]); return digits(n, 3) + unit; },
    bytes: (v) => { const [n, unit] = scaled(v, 1000, ["B", "kB", "MB", "GB", "TB"]); return `${digits(n, 3)} ${unit}`; },
    seconds: (v) => v === 0 ? "0" : v < 1e-3 ? `${digits(v * 1e6, 3)} µs` : v < 1 ? `${digits(v * 1e3, 3)} ms`
      : v < 120 ? `${digits(v, 3)} s` : clock(v),
  };
  // Labels of one axis have one unit, and as many digits as tell them apart.
  const ticks = (unit) => (_, values) => values.map((v) => v === null ? "" :
    unit === "rate" && v !== 0 ? Number(v.toPrecision(3)).toExponential().replace("e+", "e") : shown[unit](v));
  const steps = (v) => Number.isInteger(v) ? v.toLocaleString("en") : v.toLocaleString("en", { maximumFractionDigits: 0 });

  // ---- data

  const axis = () => all.axes[mode];
  const marks = () => all.marks.map((m) => ({ ...m, x: mode === "time" ? m.time : m.step }))
    .filter((m) => present(m.x));
  const gaps = new Set(all.gaps);
  const stacked = (lines) => {
    let below = null;
    return lines.map((line) => {
      below = line.mean.map((v, i) => present(v) ? v + (below ? below[i] || 0 : 0) : null);
      return { ...line, mean: below, own: line.mean };
    });
  };

  // Over time there is one table; over steps one per lap, for there they overlap, in two where a later lap did
  // its last steps again. A hole is a null between.
  // A value that not every row has (memory is read twice a second) leaves no hole, but where it stays away.
  const BRIDGED = 20;
  const bridged = (column, bad) => {
    const found = column.slice();
    for (let i = 0, begin = 0; i < found.length; i += 1) {
      if (present(column[i])) { begin = i + 1; continue; }
      if (i + 1 < column.length && !present(column[i + 1])) continue;
      if (i + 1 - begin <= BRIDGED) for (let n = begin; n <= i; n += 1) if (!bad.has(n)) found[n] = undefined;
    }
    return found;
  };
  const tables = (chart, lines) => {
    const whole = mode === "time" || all.laps.length === 1;
    const parts = whole ? [[0, axis().length, true]] : all.laps.flatMap(([begin, end], n) => {
      const again = Math.min(...all.laps.slice(n + 1).map((lap) => axis()[lap[0]]), Infinity);
      let cut = begin;
      while (cut < end && axis()[cut] < again) cut += 1;
      const kept = [begin, cut, true], repeated = [Math.max(begin, cut - 1), end, false];
      return [...(cut > begin ? [kept] : []), ...(cut < end ? [repeated] : [])];
    });
    const begins = new Set(whole ? all.laps.map((lap) => lap[0]) : []);
    return parts.map(([begin, end, kept]) => {
      const x = [], bad = new Set(chart.bad);
      const columns = lines.flatMap((line) => line.low ? [line.high, line.low, line.mean] : [line.mean])
        .map((column) => bridged(column, bad));
      const out = columns.map(() => []);
      for (let i = begin; i < end; i += 1) {
        if (i > begin && (gaps.has(i) || begins.has(i))) {
          x.push((axis()[i - 1] + axis()[i]) / 2);
          out.forEach((column) => column.push(null));
        }
        x.push(axis()[i]);
        columns.forEach((column, c) => out[c].push(positive(chart) && column[i] <= 0 ? null : column[i]));
      }
      return { x, out, kept };
    });
  };
  const positive = (chart) => logarithmic.has(chart.id);

  // ---- drawing

  let mode = "step", zoomed = null, drawn = [];
  const logarithmic = new Set();
  const range = (() => {
    const memo = {};
    return () => memo[mode] ??= (() => {
      const x = axis();
      const least = x.reduce((a, b) => Math.min(a, b), Infinity), most = x.reduce((a, b) => Math.max(a, b), -Infinity);
      return least < most ? [least, most] : [least - 1, most + 1];
    })();
  })();

  const overlays = (chart) => (u) => {
    const { ctx, bbox } = u, ratio = devicePixelRatio;
    const at = (x) => Math.round(u.valToPos(x, "x", true));
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const mark of marks()) {
      const x = at(mark.x), bad = mark.kind === "incident";
      if (bad && mode === "time" && mark.until > mark.time) {
        ctx.fillStyle = faded(colour("--bad"), 0.14);
        ctx.fillRect(x, bbox.top, Math.max(ratio, at(mark.until) - x), bbox.height);
      }
      ctx.strokeStyle = bad ? colour("--bad") : colour("--faint");
      ctx.lineWidth = ratio;
      ctx.setLineDash(bad ? [] : [4 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(x + 0.5, bbox.top);
      ctx.lineTo(x + 0.5, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    ctx.fillStyle = colour("--bad");
    for (const i of chart.bad) {
      const x = at(axis()[i]), size = 5 * ratio;
      ctx.beginPath();
      ctx.moveTo(x - size, bbox.top);
      ctx.lineTo(x + size, bbox.top);
      ctx.lineTo(x, bbox.top + 1.6 * size);
      ctx.fill();
    }
    ctx.restore();
  };

  const tell = (chart, lines, u) => {
    const box = document.getElementById(`key-${chart.id}`);
    const index = u.cursor.left >= 0 ? u.cursor.idx : null;
    const x = present(index) ? u.data[0][index] : null;
    const place = document.getElementById(`at-${chart.id}`);
    place.textContent = x === null ? "" : mode === "time" ? `at ${clock(x)}` : `step ${steps(x)}`;
    let nearest = -1;
    if (x !== null) {
      const ax = axis();
      let low = 0, high = Infinity;
      ax.forEach((v, i) => { const d = Math.abs(v - x); if (d <= high) { high = d; low = i; } });
      nearest = low;
    }
    lines.forEach((line, n) => {
      const out = box.querySelector(`[data-line="${n}"]`);
      if (!out) return;
      const values = line.own || line.mean, value = nearest >= 0 ? values[nearest] : null;
      if (!present(value)) { out.textContent = ""; return; }
      const least = line.low?.[nearest], most = line.high?.[nearest], unit = shown[chart.unit];
      const wide = present(least) && present(most) && unit(least) !== unit(most);
      out.textContent = wide ? `${unit(value)}  (${unit(least)} – ${unit(most)})` : unit(value);
    });
  };

  // Where a stack is cut off, so that a checkpoint of ten seconds does not hide what a step of one is made of.
  const cap = (chart, lines) => {
    if (!chart.stack) return Infinity;
    const sums = lines[lines.length - 1].mean.filter(present).sort((a, b) => a - b);
    const usual = 3 * (sums[Math.floor(0.95 * (sums.length - 1))] || Infinity);
    return sums[sums.length - 1] > usual ? usual : Infinity;
  };

  const draw = (chart) => {
    const box = document.getElementById(`plot-${chart.id}`);
    const lines = chart.stack ? stacked(chart.lines) : chart.lines;
    // Of what was done again a stack shows the last time alone: two of them are no stack.
    const mostShown = cap(chart, lines);
    const several = tables(chart, lines).filter((table) => table.kept || !chart.stack);
    const calm = lines.some((line) => line.trend);
    const series = [{}], bands = [];
    const data = several.map((table) => [table.x, ...table.out]);
    for (const table of several) {
      const strength = table.kept ? 1 : 0.4;
      let below = null;
      for (const line of lines) {
        const ink = colour(`--c-${line.colour}`);
        if (line.low) {
          const none = { stroke: "transparent", width: 0, points: { show: false } };
          bands.push({ series: [series.length, series.length + 1], fill: faded(ink, 0.2 * strength) });
          series.push({ ...none }, { ...none });
        }
        if (chart.stack && below !== null) bands.push({ series: [series.length, below], fill: faded(ink, 0.55) });
        below = series.length;
        series.push({
          label: line.label, stroke: faded(ink, strength * (calm && !line.trend ? 0.4 : 1)),
          width: line.trend ? 2 : calm || line.dash ? 1.2 : 1.6,
          dash: line.dash ? [5, 4] : undefined, points: { size: 5, fill: ink, width: 0 },
          fill: chart.stack && line === lines[0] ? faded(ink, 0.55) : undefined,
        });
      }
    }
    const points = chart.points, at = points && points[mode];
    if (points && points.y.length) {
      const order = at.map((x, i) => [x, points.y[i]]).filter(([x, y]) => !positive(chart) || y > 0).sort((a, b) => a[0] - b[0]);
      data.push([order.map((p) => p[0]), order.map((p) => p[1])]);
      const ink = colour(`--c-${points.colour}`);
      series.push({
        label: points.label, stroke: faded(ink, 0.5), width: 1,
        points: { show: true, size: 8, fill: ink, stroke: colour("--card"), width: 1 },
      });
    }
    // Values of another table at a place are undefined, not null: the line goes on over them.
    const note = document.getElementById(`cut-${chart.id}`);
    if (note) note.textContent = mostShown < Infinity ? ` · cut at ${shown[chart.unit](mostShown)}` : "";
    const joined = data.length > 1 ? uPlot.join(data, data.map((t) => t.map(() => 1))) : data[0];
    const soft = colour("--soft"), hair = colour("--hair");
    const font = "11px system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
    const grid = { stroke: hair, width: 1 }, tick = { stroke: colour("--line"), width: 1, size: 4 };
    const log = positive(chart);
    const u = new uPlot({
      width: box.clientWidth, height: box.clientHeight, legend: { show: false }, series, bands,
      padding: [8, 10, 0, 0],
      cursor: { y: false, sync: { key: "run" }, drag: { x: true, y: false, setScale: false }, points: { size: 6 } },
      scales: {
        x: { time: false, range: () => zoomed ?? range() },
        y: {
          distr: log ? 3 : 1,
          range: log ? undefined : (_, least, most) => {
            if (!present(least)) return [0, 1];
            if (zoomed === null) most = Math.min(most, mostShown);
            if (chart.zero && least >= 0) return [0, most > 0 ? most * 1.08 : 1];
            const pad = (most - least) * 0.07 || Math.abs(most) * 0.1 || 1;
            return [least - pad, most + pad];
          },
        },
      },
      axes: [
        { stroke: soft, grid, ticks: tick, font, size: 30, gap: 4, space: 64,
          values: (_, values) => values.map((v) => mode === "time" ? clock(v) : shown.count(v)),
          incrs: mode === "time" ? [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 43200,
            86400, 172800, 345600, 864000, 1728000, 3456000]
            : [1, 2, 5].flatMap((n) => Array.from({ length: 16 }, (__, p) => n * 10 ** p)).sort((a, b) => a - b) },
        { stroke: soft, grid, ticks: tick, font, size: 58, gap: 4, space: 28, values: ticks(chart.unit) },
      ],
      hooks: {
        draw: [overlays(chart)],
        setCursor: [(self) => tell(chart, lines, self)],
        setSelect: [(self) => {
          if (self.select.width < 3) return;
          zoom([self.posToVal(self.select.left, "x"), self.posToVal(self.select.left + self.select.width, "x")]);
        }],
        ready: [(self) => self.over.addEventListener("dblclick", () => zoom(null))],
      },
    }, joined, box);
    return u;
  };

  const zoom = (to) => {
    zoomed = to;
    document.getElementById("unzoom").hidden = to === null;
    document.querySelectorAll("[id^=cut-]").forEach((each) => { each.hidden = to !== null; });
    for (const u of drawn) {
      u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
      const [min, max] = to ?? range();
      u.setScale("x", { min, max });
    }
  };
  const drawAll = () => {
    drawn.forEach((u) => u.destroy());
    drawn = all.charts.map(draw);
  };

  // ---- controls

  const press = (group, pressed) => group.querySelectorAll("button").forEach((b) =>
    b.setAttribute("aria-pressed", String(b === pressed)));
  document.querySelectorAll("[data-mode]").forEach((button) => button.addEventListener("click", () => {
    mode = button.dataset.mode;
    zoomed = null;
    document.getElementById("unzoom").hidden = true;
    press(button.parentElement, button);
    drawAll();
  }));
  document.querySelectorAll("[data-log]").forEach((button) => button.addEventListener("click", () => {
    const chart = button.closest("figure").dataset.chart;
    if (button.dataset.log === "1") logarithmic.add(chart); else logarithmic.delete(chart);
    press(button.parentElement, button);
    drawAll();
  }));
  document.getElementById("unzoom").addEventListener("click", () => zoom(null));
  dark.addEventListener("change", drawAll);
  for (const [name, printing] of [["beforeprint", true], ["afterprint", false]]) addEventListener(name, () => {
    document.documentElement.toggleAttribute("data-print", printing);
    drawAll();
  });
  if (all.only) mode = all.only;
  drawAll();
  new ResizeObserver(() => drawn.forEach((u) => {
    const box = u.root.parentElement;
    if (box.clientWidth && box.clientWidth !== u.width) u.setSize({ width: box.clientWidth, height: box.clientHeight });
  })).observe(document.querySelector("main"));
  document.documentElement.dataset.ready = "1";
})();
