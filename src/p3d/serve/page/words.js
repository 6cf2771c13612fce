// The words of the page in each language. A function takes the values that a sentence names.
const WORDS = {
  en: {
    language: "Language", choose: "Choose a video", token: "Token", drop: "Drop a video here, or",
    file: "choose a file", camera: "record 5 seconds", recording: "Recording",
    samples: "Or try one of these:", classes: "Most likely classes", overTime: "Scores over time",
    segments: "Segments", seek: "Choose a segment to see it.", progress: "Looking through the video",
    cancel: "Cancel", explain: "Show where it looks", json: "Save JSON", csv: "Save CSV",
    unplayable: "This browser cannot play the file. Its scores are right all the same.",
    mark: "The mark is the score at the time shown.",
    sending: (name) => `Scoring ${name}`,
    done: (name) => `${name}: scored`,
    noSegments: "No class is likely enough for a segment.",
    canceled: "Canceled.",
    noCamera: "There is no camera, or this page may not use it.",
    unreachable: "The service does not answer. Is it running?",
    sample: (name, number) => `${name} ${number}`,
    about: (model) => `${model.network}, ${model.classes.length} classes, ${model.weights}, ${model.device}`,
    limits: (size, seconds) => `At most ${size} MiB and ${seconds} seconds. Nothing is kept.`,
    seen: (clips, percent) => `Mean of ${clips} clips, which span ${percent}% of the video.`,
    segment: (name, start, end, score) => `${name}, ${start} to ${end} s, ${score}`,
    chart: (names) => `Scores over time of ${names.join(", ")}`,
    looks: (name, score, start, end) => `Where it looks for ${name} (${score}) from ${start} to ${end} s: the redder, the more.`,
    looking: "Computing where it looks",
  },
  zh: {
    language: "语言", choose: "选择视频", token: "令牌", drop: "把视频拖到这里，或者",
    file: "选择文件", camera: "录制 5 秒", recording: "正在录制",
    samples: "或者试试这些：", classes: "最可能的类别", overTime: "得分随时间的变化",
    segments: "片段", seek: "点击片段即可跳转。", progress: "正在分析视频",
    cancel: "取消", explain: "显示关注区域", json: "保存 JSON", csv: "保存 CSV",
    unplayable: "浏览器无法播放此文件，但得分仍然正确。",
    mark: "竖线是当前时刻的得分。",
    sending: (name) => `正在计算 ${name} 的得分`,
    done: (name) => `${name}：已完成`,
    noSegments: "没有哪个类别的得分足以构成片段。",
    canceled: "已取消。",
    noCamera: "没有摄像头，或者本页面无权使用。",
    unreachable: "服务没有响应。它在运行吗？",
    sample: (name, number) => `${name} ${number}`,
    about: (model) => `${model.network}，${model.classes.length} 个类别，${model.weights}，${model.device}`,
    limits: (size, seconds) => `最大 ${size} MiB，最长 ${seconds} 秒。不会保存任何内容。`,
    seen: (clips, percent) => `${clips} 个剪辑的平均值，覆盖视频的 ${percent}%。`,
    segment: (name, start, end, score) => `${name}，${start} 至 ${end} 秒，${score}`,
    chart: (names) => `${names.join("、")} 的得分随时间的变化`,
    looks: (name, score, start, end) => `${start} 至 ${end} 秒内识别 ${name}（${score}）所关注的区域：越红越重要。`,
    looking: "正在计算关注区域",
  },
};

let language = navigator.language.startsWith("zh") ? "zh" : "en";

export function currentLanguage() {
  return language;
}

export function setLanguage(name) {
  language = name;
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  for (const element of document.querySelectorAll("[data-word]")) {
    element.textContent = WORDS[language][element.dataset.word];
  }
}

export function word(name, ...values) {
  const found = WORDS[language][name];
  return typeof found === "function" ? found(...values) : found;
}
