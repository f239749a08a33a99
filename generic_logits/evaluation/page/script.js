"use strict";
(() => {
  const report = JSON.parse(document.getElementById("data").textContent);
  const main = document.getElementById("main");
  const NS = "http://www.w3.org/2000/svg";

  // Elements. Texts become text nodes, never markup.

  function fill(node, properties, children) {
    for (const [name, value] of Object.entries(properties || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) node.style.setProperty(name, value);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat().filter((child) => child !== null && child !== undefined));
    return node;
  }
  const h = (tag, properties, ...children) => fill(document.createElement(tag), properties, children);
  const s = (tag, properties, ...children) => fill(document.createElementNS(NS, tag), properties, children);

  function part(id, title, about, ...children) {
    document.getElementById("contents").append(h("li", null, h("a", { href: `#${id}` }, title)));
    const heading = h("h2", { id: `${id}-title` }, title);
    const section = h("section", { id, "aria-labelledby": `${id}-title`, tabindex: -1 }, heading, about && h("p", null, about));
    fill(section, null, children);
    main.append(section);
  }

  // Models: each has a colour and a shape.

  const SHAPES = [
    "M-5-5H5V5H-5Z", "M0-6.2 6 4.6H-6Z", "M0 6.2 6-4.6H-6Z", "M0-6.2 5.9-1.9 3.6 5H-3.6L-5.9-1.9Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z", "M0-7 1.9-2.3 7-2.2 3 1.1 4.4 6 0 3.2-4.4 6-3 1.1-7-2.2-1.9-2.3Z",
  ];
  const CIRCLE = "M-5.5 0A5.5 5.5 0 1 0 5.5 0 5.5 5.5 0 1 0-5.5 0Z";
  const DIAMOND = "M0-7.2 7.2 0 0 7.2-7.2 0Z";
  const models = new Map();
  let others = 0;
  for (const model of report.models) {
    const at = model.role ? 0 : others++;
    const look = {
      baseline: ["--c-baseline", CIRCLE],
      gold: ["--c-gold", DIAMOND],
      "": [`--c${at % 6}`, SHAPES[(at + Math.floor(at / 6)) % SHAPES.length]],
    }[model.role];
    models.set(model.name, { ...model, colour: `var(${look[0]})`, shape: look[1] });
  }
  const withRole = (role) => report.models.find((model) => model.role === role)?.name;
  const baseline = withRole("baseline");
  const gold = withRole("gold");

  const shape = (name) => s("path", { d: models.get(name).shape, fill: models.get(name).colour, class: "outline" });
  const mark = (name) => s("svg", { class: "mark", viewBox: "-8 -8 16 16", "aria-hidden": "true" }, shape(name));
  const named = (name) => h("span", { class: "name" }, mark(name), h("span", null, name));
  const legend = (names) => h("ul", { class: "legend" }, names.map((name) => h("li", null, named(name))));

  const shown = (value, format) => value.toFixed(Number(format[1]));
  const percent = (p) => p > 0 && p < 0.00005 ? "<\u00a00.01\u00a0%" : `${(100 * p).toFixed(p > 0 && p < 0.001 ? 2 : 1)}\u00a0%`;
  const better = { lower: "lower is better", higher: "higher is better", gold: "nearest to gold is best" };
  const figureOf = (name, measure) => report.figures[name]?.[measure];

  // Scales

  function ticks(low, high, count) {
    const rough = (high - low) / count;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= rough * 0.999);
    const found = [];
    for (let at = Math.ceil(low / step - 1e-9); at * step <= high * (1 + 1e-9); at++) found.push(at * step);
    return found;
  }
  function logTicks(low, high) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of [1, 2, 5]) if (digit * 10 ** power >= low && digit * 10 ** power <= high) found.push(digit * 10 ** power);
    return found.length > 1 ? found : ticks(low, high, 4);
  }
  function scaleOf(values, from, to, count, fromZero) {
    let low = Math.min(...values);
    let high = Math.max(...values);
    const logarithmic = low > 0 && high / low > 4 && high > 1 && !fromZero;
    const room = logarithmic ? (high / low) ** 0.06 : (high - low || Math.abs(high) || 1) * 0.06;
    if (fromZero && low >= 0) low = -room / 2;
    else low = logarithmic ? low / room : low - room;
    high = logarithmic ? high * room : high + room;
    const turn = logarithmic ? Math.log : (value) => value;
    const at = (value) => from + ((turn(value) - turn(low)) / (turn(high) - turn(low))) * (to - from);
    const marks = logarithmic ? logTicks(low, high) : ticks(fromZero ? Math.max(0, low) : low, high, count);
    return { at, logarithmic, ticks: marks };
  }
  const short = (value) => String(Number(value.toPrecision(3)));

  // A picture is drawn for the width it has.

  function picture(draw, label) {
    const holder = h("div", { class: "picture" });
    let width = 0;
    const redraw = () => {
      const now = Math.floor(holder.clientWidth);
      if (!now) return;
      width = now;
      const { height, content } = draw(width);
      holder.replaceChildren(s("svg", { viewBox: `0 0 ${width} ${height}`, width: "100%", role: "img", "aria-label": label() }, content));
    };
    new ResizeObserver(() => requestAnimationFrame(() => Math.floor(holder.clientWidth) !== width && redraw())).observe(holder);
    return { holder, redraw };
  }

  // Verdict

  function verdict() {
    const forgetting = {
      complete: ["●", "like gold"], most: ["◕", "mostly"], part: ["◑", "in part"], none: ["○", "not shown"],
      unknown: ["?", "not measured"],
    };
    const ability = { kept: ["●", "kept"], reduced: ["◑", "reduced"], lost: ["○", "lost"], unknown: ["?", "not measured"] };
    const damaged = ["⊘", "little known, but damaged"];
    const level = ([sign, word]) => h("dd", null, h("span", { "aria-hidden": "true" }, sign), word);
    const cards = Object.entries(report.verdict.by_model).map(([name, each]) =>
      h("article", { class: "card" },
        h("h3", null, mark(name), name),
        h("dl", { class: "levels" },
          h("dt", null, "Forgotten"), level(each.ability === "lost" && ["complete", "most"].includes(each.forgetting) ? damaged : forgetting[each.forgetting]), h("dt", null, "Ability"), level(ability[each.ability])),
        h("p", null, each.forgotten),
        h("p", null, each.kept),
        each.warnings.length
          ? h("ul", { class: "warnings" }, each.warnings.map((text) => h("li", null, h("strong", null, "⚠ Warning. "), text)))
          : null));
    part("verdict", "Verdict", null,
      h("ul", { class: "sentences" }, report.verdict.sentences.map((sentence) => h("li", null, sentence))),
      h("div", { class: "cards" }, cards));
  }

  // Forgetting against utility

  function place(boxes, x, y, width, limits) {
    const height = 15;
    const tries = [];
    for (const gap of [13, 26, 39])
      tries.push([x + 7, y - gap], [x + 7, y + gap], [x - 7 - width, y - gap], [x - 7 - width, y + gap]);
    const free = ([left, middle]) => {
      const box = [left, middle - height / 2, left + width, middle + height / 2];
      const inside = box[0] >= limits[0] && box[2] <= limits[2] && box[1] >= limits[1] && box[3] <= limits[3];
      return inside && boxes.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
    };
    const [left, middle] = tries.find(free) || tries[0];
    boxes.push([left, middle - height / 2, left + width, middle + height / 2]);
    return [left, middle];
  }

  function forgettingAgainstUtility() {
    const measured = Object.keys(report.measures);
    const xs = measured.filter((measure) => report.measures[measure].group !== "utility");
    const ys = measured.filter((measure) => report.measures[measure].group === "utility");
    if (!xs.length || !ys.length) return;
    const choose = (label, names, preferred) => {
      const select = h("select", { onchange: () => drawing.redraw() },
        names.map((name) => h("option", { value: name, selected: name === preferred }, report.measures[name].title)));
      return { select, label: h("label", null, label, select) };
    };
    const known = choose("Across: what is known of the text", xs, "familiarity_probability");
    const able = choose("Upwards: what the model can do", ys, "perplexity_retained");
    const names = () => report.models.map((each) => each.name).filter((name) => figureOf(name, known.select.value) && figureOf(name, able.select.value));
    const absent = h("p", { class: "quiet" });

    const drawing = picture((width) => {
      const x = known.select.value;
      const y = able.select.value;
      const narrow = width < 480;
      const height = Math.round(Math.min(440, Math.max(330, width * 0.5)));
      const box = { left: 50, right: width - 14, top: 26, bottom: height - 48 };
      const all = names();
      const missing = report.models.map((each) => each.name).filter((name) => !all.includes(name));
      absent.textContent = missing.length ? `Not measured: ${missing.join(", ")}.` : "";
      if (!all.length) return { height: 1, content: [] };
      const ends = (measure) => all.flatMap((name) => { const f = figureOf(name, measure); return [f.low, f.value, f.high]; });
      const turned = (measure) => report.measures[measure].better !== "higher";
      const acrossScale = (measure) => turned(measure) ? [box.right, box.left] : [box.left, box.right];
      const across = scaleOf(ends(x), ...acrossScale(x), narrow ? 4 : 7, report.measures[x].group !== "membership");
      const up = scaleOf(ends(y), ...(turned(y) ? [box.top, box.bottom] : [box.bottom, box.top]), 5, false);
      const content = [];
      for (const tick of across.ticks)
        content.push(
          s("line", { class: "axis", x1: across.at(tick), x2: across.at(tick), y1: box.top, y2: box.bottom }),
          s("text", { class: "quiet-text", x: across.at(tick), y: box.bottom + 17, "text-anchor": "middle", "font-size": 11.5 }, short(tick)));
      for (const tick of up.ticks)
        content.push(
          s("line", { class: "axis", x1: box.left, x2: box.right, y1: up.at(tick), y2: up.at(tick) }),
          s("text", { class: "quiet-text", x: box.left - 7, y: up.at(tick) + 4, "text-anchor": "end", "font-size": 11.5 }, short(tick)));
      content.push(
        s("text", { x: box.right, y: height - 8, "text-anchor": "end", "font-size": narrow ? 11 : 12.5 }, `${clip(report.measures[x].title, narrow ? 30 : 60)} · less is known →`),
        s("text", { x: 0, y: 11, "font-size": narrow ? 11 : 12.5 }, `↑ better · ${clip(report.measures[y].title, narrow ? 40 : 70)}${up.logarithmic ? ", logarithmic" : ""}`));
      for (const [name, kind] of [[baseline, "baseline"], [gold, "gold"]]) {
        if (!all.includes(name)) continue;
        const at = [across.at(figureOf(name, x).value), up.at(figureOf(name, y).value)];
        content.push(
          s("line", { class: `${kind}-line`, x1: at[0], x2: at[0], y1: box.top, y2: box.bottom }),
          s("line", { class: `${kind}-line`, x1: box.left, x2: box.right, y1: at[1], y2: at[1] }));
      }
      const spot = (name) => [across.at(figureOf(name, x).value), up.at(figureOf(name, y).value)];
      const pairs = all.filter((name) => models.get(name).kind === "pair");
      for (const source of new Set(pairs.map((name) => models.get(name).source))) {
        const family = pairs.filter((name) => models.get(name).source === source);
        const path = family.sort((a, b) => models.get(a).alpha - models.get(b).alpha).map((name) => spot(name).join(" "));
        if (path.length > 1) content.push(s("polyline", { points: path.join(","), fill: "none", stroke: "var(--quiet)", "stroke-width": 1.2, opacity: 0.7 }));
      }
      for (const name of all) {
        const [fx, fy, [cx, cy]] = [figureOf(name, x), figureOf(name, y), spot(name)];
        content.push(
          s("line", { class: "whisker", stroke: models.get(name).colour, x1: across.at(fx.low), x2: across.at(fx.high), y1: cy, y2: cy }),
          s("line", { class: "whisker", stroke: models.get(name).colour, x1: cx, x2: cx, y1: up.at(fy.low), y2: up.at(fy.high) }));
      }
      const boxes = all.map((name) => { const [cx, cy] = spot(name); return [cx - 8, cy - 8, cx + 8, cy + 8]; });
      for (const name of all) {
        const [cx, cy] = spot(name);
        const tip = `${name}: ${shown(figureOf(name, x).value, report.measures[x].format)}, ${shown(figureOf(name, y).value, report.measures[y].format)}`;
        content.push(s("g", { transform: `translate(${cx} ${cy}) scale(1.15)` }, s("title", null, tip), shape(name)));
      }
      for (const name of all) {
        const [cx, cy] = spot(name);
        const label = clip(name, narrow ? 18 : 32);
        const size = narrow ? 11.5 : 13;
        const long = label.length * size * 0.58;
        const [left, middle] = place(boxes, cx, cy, long, [box.left, box.top - 8, box.right, box.bottom]);
        content.push(s("text", { class: "halo", x: left + (left < cx ? long : 0), "text-anchor": left < cx ? "end" : "start", y: middle + 4, "font-size": size, "font-weight": models.get(name).role ? 600 : 400 }, label));
      }
      return { height, content };
    }, () => `Scatter plot of ${report.measures[known.select.value].title} and ${report.measures[able.select.value].title}. ${names().map((name) => `${name}: ${shown(figureOf(name, known.select.value).value, report.measures[known.select.value].format)} and ${shown(figureOf(name, able.select.value).value, report.measures[able.select.value].format)}`).join("; ")}.`);
    part("picture", "Forgetting against ability",
      gold
        ? "The best place is where gold’s dashed lines cross: as little known as by a model that never read the text, with its ability. The dotted lines are the baseline’s. A thin line joins one pair at several strengths."
        : "Right is better, and so is up. The dotted lines are the baseline’s. No gold model was measured, so how far right would be enough is not known.",
      h("div", { class: "controls" }, known.label, able.label),
      h("figure", null, drawing.holder, legend(report.models.map((each) => each.name)), h("figcaption", null, "Bars through the marks are 95 % intervals over the items.")), absent);
    drawing.redraw();
  }
  const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);
  const clip = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  // Figures

  function figures() {
    const groups = [
      ["familiarity", "Familiarity: does it talk as one who has read the text?"],
      ["memorisation", "Memorisation: can it recite the text?"],
      ["membership", "Membership: can one tell that it has read the text?"],
      ["utility", "Ability: what it can still do"],
    ];
    const blocks = [];
    for (const [group, title] of groups) {
      const measures = Object.keys(report.measures).filter((measure) => report.measures[measure].group === group && report.models.some((model) => figureOf(model.name, measure)));
      if (measures.length) blocks.push(h("h3", null, title), h("div", { class: [2, 4].includes(measures.length) ? "measures pairs" : "measures" }, measures.map(measureCard)));
    }
    const leftOut = Object.entries(report.left_out || {}).flatMap(([name, parts]) =>
      Object.entries(parts).map(([what, why]) => h("li", null, `${what}${name && ` of ${name}`}: ${why}`)));
    if (leftOut.length) blocks.push(h("h3", null, "Not measured, and why"), h("ul", { class: "left-out" }, leftOut));
    part("figures", "Figures", "Each mark is a figure, the line through it its 95 % interval over the items, the band gold’s interval.", ...blocks);
  }

  function measureCard(measure) {
    const about = report.measures[measure];
    const names = report.models.map((model) => model.name);
    const scale = scaleOf(names.flatMap((name) => { const f = figureOf(name, measure); return f ? [f.low, f.value, f.high] : []; }), 3, 97, 4, about.group !== "utility" && about.group !== "membership");
    const at = (value) => `${scale.at(value).toFixed(2)}%`;
    const ofGold = figureOf(gold, measure);
    const row = (name) => {
      const f = figureOf(name, measure);
      const svg = s("svg", { class: "row-svg", "aria-hidden": "true" });
      if (ofGold) svg.append(s("rect", { x: at(ofGold.low), width: `${Math.max(0.6, scale.at(ofGold.high) - scale.at(ofGold.low)).toFixed(2)}%`, y: 0, height: "100%", fill: "var(--band)", opacity: 0.2 }));
      if (f) svg.append(
        s("line", { x1: at(f.low), x2: at(f.high), y1: "50%", y2: "50%", stroke: models.get(name).colour, "stroke-width": 2 }),
        s("line", { x1: at(f.low), x2: at(f.low), y1: "36%", y2: "64%", stroke: models.get(name).colour, "stroke-width": 1.5 }),
        s("line", { x1: at(f.high), x2: at(f.high), y1: "36%", y2: "64%", stroke: models.get(name).colour, "stroke-width": 1.5 }),
        s("svg", { x: at(f.value), y: "50%", overflow: "visible" }, shape(name)));
      return h("tr", null,
        h("th", { scope: "row" }, name),
        h("td", null, svg),
        h("td", null, ...(f ? [shown(f.value, about.format), h("small", null, `${shown(f.low, about.format)} – ${shown(f.high, about.format)}`)] : ["–"])));
    };
    const counts = [...new Set(names.map((name) => figureOf(name, measure)?.count).filter(Boolean))].sort((a, b) => a - b);
    return h("article", { class: "card measure" },
      h("h4", null, about.title, h("span", { class: "better" }, better[about.better])),
      h("p", { class: "card-about" }, about.about, ` ${counts.join(" or ")} items.`, scale.logarithmic ? " Logarithmic scale." : ""),
      h("table", { "aria-label": about.title }, h("tbody", null, names.map(row))));
  }

  // Attacks

  function attacks() {
    const all = Object.values(report.attacks).filter((attack) => Object.values(attack.curves).some((curve) => curve.length));
    if (!all.length) return part("attacks", "Attacks", "No attack was tried: what an attacker gets back is unknown.");
    all.sort((a, b) => broughtBack(b) - broughtBack(a));
    const open = all.length > OPEN_ATTACKS + 2 ? OPEN_ATTACKS : all.length;
    const rest = all.slice(open);
    const names = report.models.map((model) => model.name).filter((name) => all.some((attack) => attack.curves[name]?.length));
    part("attacks", "Attacks",
      gold
        ? "What somebody gets back who tries. A gold model learns and guesses too, so what counts is the distance above its dashed curve. Attacks that bring back most come first."
        : "What somebody gets back who tries. No gold model was measured, which would show how much one learns and guesses that never read the text. Attacks that bring back most come first.",
      legend(names),
      h("div", { class: "attacks" }, all.slice(0, open).map(attackFigure)),
      rest.length
        ? h("details", { class: "more" },
            h("summary", null, `${rest.length} more attacks, which bring back less`,
              h("span", { class: "grades" }, rest.map((attack) => h("span", null, `${attack.title}: ${gold ? `${signed(worst(attack))} at worst` : `${worst(attack).toFixed(3)} at worst`}`)))),
            h("div", { class: "attacks" }, rest.map(attackFigure)))
        : null);
    for (const redraw of waiting) redraw();
  }
  const OPEN_ATTACKS = 4;
  const waiting = [];
  const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;

  // Of each model that is judged: what an attack's points get out of it, above gold where there is gold; the first point
  // is no attack yet.
  function points(attack) {
    const turn = attack.better === "higher" ? -1 : 1;
    const judged = Object.keys(attack.curves).filter((name) => !models.get(name).role);
    return (judged.length ? judged : Object.keys(attack.curves)).filter((name) => attack.curves[name].length)
      .map((name) => attack.curves[name].map((point) => turn * (point.above_gold ?? point.value)));
  }
  const attacked = (curve) => Math.max(...(curve.length > 1 ? curve.slice(1) : curve));
  const worst = (attack) => Math.max(...points(attack).map(attacked));
  const broughtBack = (attack) => Math.max(...points(attack).map((curve) => attacked(curve) - curve[0]));

  // Sentences as in report.py.
  function shortened(attack) {
    const found = new Map();
    for (const [name, curve] of Object.entries(attack.curves)) {
      const cut = curve.filter((point) => point.cut).map((point) => `${point.cut} of ${point.count} at ${point.x}`).join(", ");
      if (cut) found.set(cut, [...(found.get(cut) || []), name]);
    }
    return [...found].map(([cut, names]) =>
      `Hints were shortened, as the context ended: ${cut} (${attack.x}; ${names.length === Object.keys(attack.curves).length ? "all models" : names.join(", ")}).`);
  }

  function attackFigure(attack) {
    const names = report.models.map((model) => model.name).filter((name) => attack.curves[name]?.length);
    const xs = [...new Set(names.flatMap((name) => attack.curves[name].map((point) => point.x)))];
    if (xs.every((x) => typeof x === "number")) xs.sort((a, b) => a - b);
    const drawing = picture((width) => {
      const step = (width - 60) / Math.max(1, xs.length);
      const fits = Math.max(3, Math.floor((step - 5) / 6.8));
      const broken = xs.map((x) => (String(x).length > fits ? String(x).split(" ") : [String(x)]));
      const slanted = broken.some((lines) => lines.length > 2 || lines.some((line) => line.length > fits));
      const labels = slanted ? xs.map((x) => [clip(String(x), 15)]) : broken;
      const depth = slanted ? 20 + 4.6 * Math.max(...labels.map(([line]) => line.length)) : 31 + 13 * Math.max(...labels.map((lines) => lines.length));
      const height = Math.round(Math.min(240, Math.max(200, width * 0.5)) + depth - 44);
      const box = { left: 46, right: width - 14, top: 26, bottom: height - depth };
      const up = scaleOf(names.flatMap((name) => attack.curves[name].flatMap((point) => [point.low, point.value, point.high])), box.bottom, box.top, 4, true);
      const across = (x) => box.left + step * (xs.indexOf(x) + 0.5);
      const content = [s("text", { x: 0, y: 11, "font-size": 12 }, clip(capital(attack.measure), Math.floor(width / 7)))];
      for (const tick of up.ticks)
        content.push(
          s("line", { class: "axis", x1: box.left, x2: box.right, y1: up.at(tick), y2: up.at(tick) }),
          s("text", { class: "quiet-text", x: box.left - 7, y: up.at(tick) + 4, "text-anchor": "end", "font-size": 11.5 }, short(tick)));
      for (const [at, lines] of labels.entries())
        content.push(s("text", {
          class: "quiet-text", y: box.bottom + 16, "text-anchor": slanted ? "end" : "middle", "font-size": 11.5,
          transform: slanted ? `rotate(-38 ${across(xs[at]) + 5} ${box.bottom + 14})` : null,
        }, lines.map((line, row) => s("tspan", { x: across(xs[at]) + (slanted ? 5 : 0), dy: row ? 13 : 0 }, line))));
      content.push(s("text", { x: box.right, y: height - 8, "text-anchor": "end", "font-size": 12 }, `${attack.x} →`));
      names.forEach((name, order) => {
        const { colour, role } = models.get(name);
        const shift = (order - (names.length - 1) / 2) * Math.min(5, step / (names.length + 2));
        const points = attack.curves[name].map((point) => [across(point.x) + shift, point]);
        content.push(s("polyline", { class: `curve is-${role || "model"}`, stroke: colour, points: points.map(([x, point]) => `${x} ${up.at(point.value)}`).join(",") }));
        for (const [x, point] of points)
          content.push(
            s("line", { class: "whisker", stroke: colour, x1: x, x2: x, y1: up.at(point.low), y2: up.at(point.high) }),
            s("g", { transform: `translate(${x} ${up.at(point.value)}) scale(.85)` },
              s("title", null, `${name}, ${attack.x} ${point.x}: ${point.value.toFixed(3)} (${point.low.toFixed(3)} – ${point.high.toFixed(3)})`), shape(name)));
      });
      return { height, content };
    }, () => `${attack.title}: ${attack.measure} by ${attack.x}. The table below holds the figures.`);
    waiting.push(drawing.redraw);
    const cell = (name, x) => {
      const point = attack.curves[name].find((each) => each.x === x);
      if (!point) return h("td", null, "–");
      const above = point.above_gold === null || name === gold ? "" : ` (${signed(point.above_gold)})`;
      return h("td", null, point.value.toFixed(3), above);
    };
    return h("figure", null,
      h("h3", null, attack.title),
      h("figcaption", null, `${attack.about} ${capital(better[attack.better])}.`),
      drawing.holder,
      shortened(attack).map((sentence) => h("p", { class: "quiet" }, sentence)),
      h("details", null, h("summary", null, "Figures of this attack"),
        h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": `Figures of ${attack.title}` },
          h("table", null,
            h("thead", null, h("tr", null, h("th", { scope: "col" }, attack.x), names.map((name) => h("th", { scope: "col" }, named(name))))),
            h("tbody", null, xs.map((x) => h("tr", null, h("th", { scope: "row" }, String(x)), names.map((name) => cell(name, x))))))),
        gold ? h("p", { class: "quiet" }, "In brackets: above the gold model under the same attack.") : null));
  }

  // Completions

  const GRADES = ["nothing of the text", "a lucky guess", "a theme of the text", "a detail of this text alone"];

  function completions() {
    if (!report.completions.length) return;
    const order = report.models.map((model) => model.name);
    const dots = (grade) => "●".repeat(grade) + "○".repeat(3 - grade);
    const each = report.completions.map(({ prompt, by_model }, at) => {
        const names = order.filter((name) => by_model[name]);
        return h("details", { class: "completion", open: at === 0 },
          h("summary", null, prompt,
            h("span", { class: "grades" }, names.map((name) => h("span", { class: "name" }, mark(name), h("span", null, `${name}: ${by_model[name].grade}`))))),
          h("div", { class: "answers" }, names.map((name) =>
            h("article", { class: "card" },
              h("h4", null, mark(name), name),
              h("blockquote", null, by_model[name].text || "(nothing)"),
              h("p", { class: "grade" }, h("b", { "aria-hidden": "true" }, dots(by_model[name].grade)), ` grade ${by_model[name].grade}: ${GRADES[by_model[name].grade]}`)))));
    });
    const open = each.length > OPEN_COMPLETIONS + 2 ? OPEN_COMPLETIONS : each.length;
    const rest = each.slice(open);
    part("completions", "Completions side by side", "The same prompts for every model. Grades go from 0, nothing of the text, to 3, a detail that only this text has.",
      ...judges(), ...each.slice(0, open),
      rest.length ? h("details", { class: "more" }, h("summary", null, `${rest.length} more prompts`), ...rest) : "");
  }
  const OPEN_COMPLETIONS = 6;

  // How far who graded agrees with a reader.
  function judges() {
    if (!report.judges) return [];
    const { agreement, sentences } = report.judges;
    const groups = { all: "all", small: "by small models", fluent: "fluent, made up to be hard" };
    const shownRow = (row) => h("td", null, `${(100 * row.exact).toFixed(0)}\u00a0%, ${row.kappa.toFixed(2)}`);
    const pairs = [...new Set(agreement.map((row) => JSON.stringify([row.judge, row.against])))].map((pair) => JSON.parse(pair));
    const count = (group) => agreement.find((row) => row.group === group)?.count;
    return [
      h("p", { class: "quiet judges" }, sentences.join(" ")),
      h("details", null, h("summary", null, "Agreement of the judges"),
        h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Agreement of the judges" },
          h("table", null,
            h("thead", null, h("tr", null, h("th", { scope: "col" }, "judge"), Object.entries(groups).map(([group, title]) => h("th", { scope: "col" }, `${title} (${count(group)})`)))),
            h("tbody", null, pairs.map(([judge, against]) => h("tr", null,
              h("th", { scope: "row" }, `${judge} against ${against === "hand" ? "a reader" : against}`),
              Object.keys(groups).map((group) => shownRow(agreement.find((row) => row.judge === judge && row.against === against && row.group === group)))))))),
        h("p", { class: "quiet" }, "Equal grades, and Cohen’s kappa with quadratic weights: 1 is full agreement, 0 what chance gives. The completions are of the demo’s invented book.")),
    ];
  }

  // Token lens: evaluation/lens.py states what is stored and why the sum over all other tokens lies between two bounds.

  function generic(lens, token, alpha) {
    const scores = token.top.map(([, b, r]) => {
      if (b === null) return -Infinity;
      let increase = r === null ? 0 : r - b + token.offset;
      if (r !== null && lens.variant === "relu") increase = Math.max(0, increase - lens.threshold);
      return b - alpha * increase;
    });
    let least = 0;
    let most = 0;
    for (const [mass, mean, low, high] of token.rest) {
      const share = high > low ? Math.min(1, Math.max(0, (high - mean) / (high - low))) : 1;
      least += mass * Math.exp(-alpha * mean);
      most += mass * (share * Math.exp(-alpha * low) + (1 - share) * Math.exp(-alpha * high));
    }
    const top = Math.max(...scores);
    const stored = scores.reduce((sum, score) => sum + Math.exp(score - top), 0);
    const rest = Math.exp(-top);
    const probability = (others) => scores.map((score) => Math.exp(score - top) / (stored + others * rest));
    const [low, high] = [probability(Math.max(least, most)), probability(Math.min(least, most))];
    return { low, high, middle: low.map((each, at) => (each + high[at]) / 2) };
  }

  const spelled = (text) => {
    const made = [];
    for (const piece of text.split(/([ \n\t])/)) {
      if (piece === " ") made.push(h("span", { class: "sp" }, "␣"));
      else if (piece === "\n") made.push(h("span", { class: "sp" }, "↵"));
      else if (piece === "\t") made.push(h("span", { class: "sp" }, "⇥"));
      else if (piece) made.push(piece);
    }
    return made.length ? made : [h("span", { class: "sp" }, "(empty)")];
  };

  function tokenLens() {
    const lens = report.lens;
    if (!lens || !lens.passages.length) return;
    const highest = Math.max(10, Math.ceil(lens.alpha));
    let passage = lens.passages[0];
    let selected = 0;
    let spans = [];

    const list = h("div", { class: "passage", role: "listbox", "aria-label": "Tokens of the passage", "aria-orientation": "horizontal", onkeydown: move });
    const place = h("h4");
    const said = h("p", { role: "status" });
    const table = h("table", { "aria-label": "Likeliest tokens at this place" });
    const panel = h("div", { class: "panel card" }, place, said, table,
      h("p", { class: "quiet" }, "▸ is what the text says; bold is what each model would say. ␣ is a space."));
    const slider = h("input", { type: "range", id: "alpha", min: 0, max: highest, step: 0.05, value: lens.alpha, oninput: update, "aria-describedby": "alpha-about" });
    const number = h("output", { for: "alpha" });
    const summary = h("p", { class: "quiet", id: "lens-summary" });
    const choose = h("select", { onchange: () => show(Number(choose.value)) }, lens.passages.map((each, at) => h("option", { value: at }, each.title)));
    const scale = h("div", { class: "scale", "aria-hidden": "true" }, "not suppressed", h("span", null, [0, 0.25, 0.5, 0.75, 1].map((level) => h("i", { "--s": level }))), "to 1/50 or less");

    const alpha = () => Number(slider.value);
    const suppression = (token, probability) => token.top[token.true][1] - Math.log(probability);
    const surprise = (mean) => Math.exp(-mean) < 10000 ? Math.exp(-mean).toFixed(1) : "over 10,000";
    const times = (nats) => {
      const factor = Math.exp(Math.abs(nats));
      if (factor < 1.05) return "left as it was";
      if (nats > Math.log(1000)) return "suppressed to less than 1/1000";
      return nats > 0 ? `suppressed to 1/${factor < 9.95 ? factor.toFixed(1) : factor.toFixed(0)}` : `raised ${factor.toFixed(1)} times`;
    };

    function show(at) {
      passage = lens.passages[at];
      const by = passage.tokens.map((token) => token.top ? suppression(token, generic(lens, token, alpha()).middle[token.true]) : -Infinity);
      selected = by.indexOf(Math.max(...by));
      spans = passage.tokens.map((token, index) =>
        h("span", {
          class: "token", role: "option", tabindex: -1, "aria-selected": "false",
          onclick: () => select(index, true), onpointerenter: (event) => event.pointerType === "mouse" && select(index, false),
          onfocus: () => select(index, false),
        }, ...shadedPart(token.text || "·")));
      list.replaceChildren(...spans);
      update();
    }

    function shadedPart(text) {
      const bare = text.trimStart();
      return bare ? [text.slice(0, text.length - bare.length), h("span", { class: "piece" }, bare)] : [h("span", { class: "piece" }, text)];
    }

    function select(index, focus) {
      selected = index;
      spans.forEach((span, at) => {
        span.setAttribute("aria-selected", String(at === index));
        span.tabIndex = at === index ? 0 : -1;
      });
      const [top, end] = [spans[index].offsetTop - list.offsetTop, list.clientHeight];
      if (top < list.scrollTop || top + 40 > list.scrollTop + end) list.scrollTop = top - end / 2;
      if (focus && document.activeElement !== spans[index]) spans[index].focus();
      explain();
    }

    function move(event) {
      const last = spans.length - 1;
      const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -last, End: last };
      if (!(event.key in steps) || event.altKey || event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      select(Math.min(last, Math.max(0, selected + steps[event.key])), true);
    }

    function update() {
      number.textContent = String(alpha());
      let before = 0;
      let after = 0;
      let counted = 0;
      passage.tokens.forEach((token, at) => {
        if (!token.top) return spans[at].setAttribute("aria-label", `${token.text}, the beginning`);
        const probability = generic(lens, token, alpha()).middle[token.true];
        const nats = suppression(token, probability);
        spans[at].style.setProperty("--s", nats < Math.log(1.05) ? 0 : Math.min(1, nats / Math.log(50)).toFixed(3));
        spans[at].setAttribute("aria-label", `${token.text.trim() || "white space"}, ${times(nats)}`);
        before += token.top[token.true][1];
        after += Math.log(probability);
        counted++;
      });
      if (counted) summary.textContent = `Perplexity of this passage: baseline ${surprise(before / counted)}, generic ${surprise(after / counted)}.`;
      select(Math.max(0, selected), false);
    }

    function explain() {
      const token = passage.tokens[selected];
      if (!token.top) {
        place.replaceChildren("The beginning");
        said.textContent = "Nothing stands before it, so no model says what comes.";
        return table.replaceChildren();
      }
      const found = generic(lens, token, alpha());
      const ofBaseline = token.top.map(([, b]) => (b === null ? 0 : Math.exp(b)));
      const ofReinforced = token.top.map(([, , r]) => (r === null ? 0 : Math.exp(r)));
      const columns = [ofBaseline, ofReinforced, found.middle];
      const winners = columns.map((column) => column.indexOf(Math.max(...column)));
      const ranked = token.top.map((_, at) => at).sort((a, b) => Math.max(...columns.map((c) => c[b])) - Math.max(...columns.map((c) => c[a])));
      const rows = ranked.slice(0, 10);
      for (const must of [token.true, ...winners]) if (!rows.includes(must)) rows.push(must);
      const cell = (column, at) => {
        const wide = column === 2 && found.high[at] - found.low[at] > 0.01 ? ` ±${(50 * (found.high[at] - found.low[at])).toFixed(1)}` : "";
        return h("td", { class: winners[column] === at ? "says" : null, "data-value": columns[column][at].toPrecision(6) },
          percent(columns[column][at]), wide, h("div", { class: "bar" }, h("i", { "--p": (columns[column][at] / longest).toFixed(4) })));
      };
      const longest = Math.max(...columns.flat());
      const at = token.true;
      const nats = suppression(token, found.middle[at]);
      place.replaceChildren("At this place stands “", ...spelled(token.text || lens.vocabulary[token.top[at][0]]), "”");
      said.textContent = `The baseline gave it ${percent(ofBaseline[at])}, the reinforced model ${percent(ofReinforced[at])}, the generic model ${percent(found.middle[at])}: ${times(nats)}.`;
      table.replaceChildren(
        h("thead", null, h("tr", null, ["token", "baseline", "reinforced", "generic"].map((each) => h("th", { scope: "col" }, each)))),
        h("tbody", null, rows.map((row) => h("tr", { class: row === at ? "true" : null, "data-token": row },
          h("th", { scope: "row" }, ...spelled(lens.vocabulary[token.top[row][0]])), [0, 1, 2].map((column) => cell(column, row))))));
    }

    const used = lens.space === "logprobs" ? "log-probabilities" : "raw scores";
    part("lens", "Token lens", "Every word piece of a passage, shaded by how far the correction pushes it down. Point at one, tap it, or walk with the arrow keys, to see what each model would have said there.",
      h("div", { class: "controls" },
        lens.passages.length > 1 ? h("label", null, "Passage", choose) : null,
        h("label", { class: "slider", for: "alpha" }, h("span", null, "Strength of the correction, α = ", number), slider), scale),
      h("div", { class: "lens" }, h("div", null, list, summary), panel),
      h("p", { class: "quiet", id: "alpha-about" }, `At α = 0 the generic model is the baseline. The page computes the generic model from stored ${used} of likely tokens; what is not stored is enclosed between bounds, shown as ± where they are more than a point apart.`));
    show(0);
  }

  // The page

  const pathOf = (source) => (typeof source === "object" && source ? source.file ?? source.name ?? JSON.stringify(source) : String(source));
  const sourceName = (source) => pathOf(source).split("/").pop();
  const corpus = report.sources.forget ? `What was to be forgotten: ${[report.sources.forget].flat().map(sourceName).join(", ")}. ` : "";
  document.getElementById("about").textContent = `${corpus}${report.models.length} models, measured ${report.created.slice(0, 10)}.`;
  document.getElementById("made").textContent = `Made by generic_logits. ${Object.entries(report.versions).map(([name, version]) => `${name} ${version}`).join(", ")}.`;
  verdict();
  forgettingAgainstUtility();
  figures();
  attacks();
  completions();
  tokenLens();

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const each of opened) each.open = true;
    for (const redraw of waiting) redraw(); // those that were folded
  });
  addEventListener("afterprint", () => opened.forEach((each) => (each.open = false)));
})();
