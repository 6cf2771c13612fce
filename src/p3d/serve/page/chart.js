// The scores over time as lines, and the segments as buttons on a bar.
const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 1000;
const HEIGHT = 100;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

// Draw the scores of some classes. `seek` gets the time that is clicked. Returns a function that
// moves the mark of the present time.
export function drawScores(place, timeline, classes, label, seek) {
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img" });
  svg.setAttribute("aria-label", label);
  for (const part of [0.25, 0.5, 0.75]) {
    const y = HEIGHT * (1 - part);
    element("line", { class: "grid", x1: 0, x2: WIDTH, y1: y, y2: y }, svg);
  }
  const toX = (time) => (WIDTH * time) / timeline.seconds;
  classes.forEach((number, place) => {
    const height = (row) => (HEIGHT - 2) * (1 - row[number]) + 1;
    const points = timeline.times.map((time, i) => [toX(time), height(timeline.scores[i])]);
    points.unshift([0, points[0][1]]);
    points.push([WIDTH, points[points.length - 1][1]]);
    const text = points.map(([x, y]) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
    element("polyline", { class: `s${place}`, points: text }, svg);
  });
  const now = element("line", { class: "now", x1: 0, x2: 0, y1: 0, y2: HEIGHT }, svg);
  svg.addEventListener("click", (event) => {
    const box = svg.getBoundingClientRect();
    seek((timeline.seconds * (event.clientX - box.left)) / box.width);
  });
  const scales = [[100, 4], [50, 50], [0, 90]].map(([text, top]) => {
    const scale = Object.assign(document.createElement("span"), { className: "scale", textContent: `${text}%` });
    scale.style.top = `${top}%`;
    scale.ariaHidden = "true";
    return scale;
  });
  place.replaceChildren(svg, ...scales);
  return (time) => {
    now.setAttribute("x1", toX(time));
    now.setAttribute("x2", toX(time));
  };
}

// Draw the segments, short ones over long ones. `name` gives the label of one, `color` the number of its color.
export function drawSegments(place, timeline, name, color, seek) {
  const mark = document.createElement("i");
  const length = (segment) => segment.end - segment.start;
  const longest = [...timeline.segments].sort((a, b) => length(b) - length(a));
  const buttons = timeline.segments.map((segment) => {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `f${color(segment)}`;
    button.style.left = `${(100 * segment.start) / timeline.seconds}%`;
    button.style.width = `${(100 * (segment.end - segment.start)) / timeline.seconds}%`;
    button.style.zIndex = longest.indexOf(segment);
    button.textContent = segment.class;
    button.title = name(segment);
    button.setAttribute("aria-label", name(segment));
    button.addEventListener("click", () => seek(segment.start));
    return button;
  });
  place.replaceChildren(...buttons, mark);
  return (time) => {
    mark.style.left = `${Math.min(100, (100 * time) / timeline.seconds)}%`;
  };
}

// The row of scores at a time: that of the nearest window.
export function scoresAt(timeline, time) {
  let best = 0;
  timeline.times.forEach((middle, i) => {
    if (Math.abs(middle - time) < Math.abs(timeline.times[best] - time)) best = i;
  });
  return timeline.scores[best];
}
