import * as api from "./api.js";
import { drawScores, drawSegments, scoresAt } from "./chart.js";
import { Heat } from "./heat.js";
import { saveCsv, saveJson } from "./saving.js";
import { currentLanguage, setLanguage, word } from "./words.js";

const COLORS = 5;
const RECORD_MS = 5000;
const $ = (id) => document.getElementById(id);
const video = $("video");
const heat = new Heat($("heat"));
const percent = (score) => `${(100 * score).toFixed(1)}%`;

let model = null;
let result = null; // { prediction, timeline, sha256 } of the video that is shown
let file = null;
let work = null; // AbortController of what is under way
let marks = []; // functions that show a time
let said = []; // the message that is shown, to say it again in another language

function showError(error) {
  if (error.name === "AbortError") return say("canceled");
  $("error").hidden = false;
  $("error").textContent = error.message || word("unreachable");
  say();
}

// Show a message, by its name in the words, or none.
function say(...message) {
  said = message;
  $("status").textContent = message.length ? word(...message) : "";
}

function seek(time) {
  video.currentTime = Math.max(0, time);
  showTime(time);
}

function showTime(time) {
  for (const mark of marks) mark(time);
  heat.draw(time);
}

async function show(chosen) {
  work?.abort();
  const mine = (work = new AbortController());
  file = chosen;
  result = null;
  $("error").hidden = true;
  $("result").hidden = false;
  $("time").hidden = $("mark").hidden = true;
  $("top").replaceChildren();
  $("seen").textContent = "";
  $("result-title").textContent = file.name;
  hideHeat();
  play(file);
  say("sending", file.name);
  try {
    const prediction = await api.predict(file, mine.signal);
    if (mine !== work) return;
    result = { prediction, timeline: null, sha256: model?.sha256 };
    showPrediction();
    say("done", file.name);
    await showTimeline(mine);
  } catch (error) {
    if (mine !== work) return;
    if (!result) $("result").hidden = true;
    showError(error);
  }
}

function play(chosen) {
  if (video.src) URL.revokeObjectURL(video.src);
  $("unplayable").hidden = true;
  video.src = URL.createObjectURL(chosen);
  video.play().catch(() => {});
}

async function showTimeline(mine) {
  $("progress").value = 0;
  $("progress-row").hidden = false;
  try {
    const timeline = await api.timeline(file, mine.signal, (part) => ($("progress").value = part));
    if (mine !== work) return;
    result.timeline = timeline;
    showScores();
  } finally {
    if (mine === work) $("progress-row").hidden = true;
  }
}

function showPrediction() {
  const { prediction } = result;
  marks = [];
  const rows = prediction.top.slice(0, COLORS).map((each, place) => {
    const row = document.createElement("li");
    const text = document.createElement("div");
    text.className = "row";
    for (const part of [each.class, percent(each.score)]) {
      text.append(Object.assign(document.createElement("span"), { textContent: part }));
    }
    const bar = document.createElement("div");
    bar.className = "bar";
    const fill = Object.assign(document.createElement("i"), { className: `f${place}` });
    fill.style.width = percent(each.score);
    bar.append(fill);
    row.append(text, bar);
    return row;
  });
  $("top").replaceChildren(...rows);
  // Rounded down, so that only a video that was seen to the end says 100%.
  $("seen").textContent = word("seen", prediction.clips, Math.floor(100 * prediction.seen));
}

function showScores() {
  const { prediction, timeline } = result;
  const names = prediction.top.slice(0, COLORS).map((each) => each.class);
  const numbers = names.map((name) => model.classes.indexOf(name));
  const color = (segment) => (names.includes(segment.class) ? names.indexOf(segment.class) : COLORS);
  const label = (s) => word("segment", s.class, s.start.toFixed(2), s.end.toFixed(2), percent(s.score));
  $("time").hidden = $("mark").hidden = false;
  $("length").textContent = `${timeline.seconds.toFixed(2)} s`;
  marks = [
    drawScores($("chart"), timeline, numbers, word("chart", names), seek),
    drawSegments($("line"), timeline, label, color, seek),
    ...[...$("top").querySelectorAll(".bar")].map((bar, place) => {
      bar.querySelector("b")?.remove();
      const mark = bar.appendChild(document.createElement("b"));
      return (time) => (mark.style.left = percent(scoresAt(timeline, time)[numbers[place]]));
    }),
  ];
  const items = timeline.segments.map((s) => Object.assign(document.createElement("li"), { textContent: label(s) }));
  $("segments").replaceChildren(...items);
  $("segments-title").textContent = word(items.length ? "seek" : "noSegments");
  showTime(video.currentTime);
}

function hideHeat() {
  heat.hide();
  $("explain").setAttribute("aria-pressed", "false");
  $("heat-note").textContent = "";
}

async function toggleHeat() {
  if (heat.found || !result) return hideHeat();
  video.pause();
  $("heat-note").textContent = word("looking");
  const mine = work;
  try {
    const found = await api.explain(file, result.prediction.top[0].class, video.currentTime);
    if (mine !== work) return; // another video is shown by now
    heat.show(found);
    $("explain").setAttribute("aria-pressed", "true");
    $("heat-note").textContent = word(
      "looks", found.class, percent(found.score), found.start.toFixed(2), found.end.toFixed(2));
    heat.draw(video.currentTime);
  } catch (error) {
    if (mine !== work) return;
    hideHeat();
    showError(error);
  }
}

async function record() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
  } catch {
    return showError(new Error(word("noCamera")));
  }
  say("recording");
  $("camera").disabled = true;
  const parts = [];
  const recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    for (const track of stream.getTracks()) track.stop();
    $("camera").disabled = false;
    const ending = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    show(new File(parts, `camera.${ending}`, { type: recorder.mimeType }));
  });
  recorder.start();
  setTimeout(() => recorder.stop(), RECORD_MS);
}

async function showSamples() {
  const names = await api.samples().catch(() => []);
  $("sample-row").hidden = !names.length;
  const buttons = names.map((name) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.addEventListener("click", async () => {
      try {
        const blob = await api.sample(name);
        show(new File([blob], `${name}.webm`, { type: "video/webm" }));
      } catch (error) {
        showError(error);
      }
    });
    return button;
  });
  $("samples").replaceChildren(...buttons);
}

function describe() {
  setLanguage(currentLanguage());
  say(...said);
  if (!model) return;
  const { bytes, seconds } = model.limits;
  $("about").textContent = word("about", model);
  $("limits").textContent = word("limits", Math.floor(bytes.value / 2 ** 20), seconds.value);
  $("explain").hidden = !model.features;
  if (result) showPrediction();
  if (result?.timeline) showScores();
}

async function connect() {
  $("error").hidden = true;
  try {
    model = await api.model();
    describe();
  } catch (error) {
    $("token-row").hidden = false;
    showError(error);
  }
}

function listen() {
  $("language").value = currentLanguage();
  $("language").addEventListener("change", (event) => {
    setLanguage(event.target.value);
    describe();
  });
  $("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    api.setToken($("token").value.trim());
    connect();
  });
  $("file").addEventListener("change", (event) => {
    if (event.target.files.length) show(event.target.files[0]);
    event.target.value = "";
  });
  const drop = $("drop");
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", () => drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) show(event.dataTransfer.files[0]);
  });
  $("camera").addEventListener("click", record);
  $("cancel").addEventListener("click", () => work?.abort());
  $("explain").addEventListener("click", toggleHeat);
  $("json").addEventListener("click", () => result && saveJson(result));
  $("csv").addEventListener("click", () => result && saveCsv(result));
  video.addEventListener("timeupdate", () => showTime(video.currentTime));
  video.addEventListener("error", () => ($("unplayable").hidden = !video.src));
  video.addEventListener("loadedmetadata", () => {
    const ratio = video.videoWidth / video.videoHeight;
    $("frame").style.maxWidth = ratio ? `min(100%, calc(60vh * ${ratio}))` : "100%";
  });
  const follow = () => {
    if (!video.paused) showTime(video.currentTime);
    requestAnimationFrame(follow);
  };
  requestAnimationFrame(follow);
  window.addEventListener("resize", () => heat.draw(video.currentTime));
}

listen();
describe();
connect();
showSamples();
