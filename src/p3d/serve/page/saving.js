// Results as files.
function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// A cell of CSV. Spreadsheets would take one that begins like this for a formula.
function cell(value) {
  const text = typeof value === "string" && /^[=+\-@]/.test(value) ? `'${value}` : String(value);
  return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

export function saveJson(result) {
  save(`${result.prediction.video}.json`, "application/json", JSON.stringify(result, null, 1));
}

// With a timeline its segments, else the most likely classes.
export function saveCsv(result) {
  const { prediction, timeline } = result;
  const rows = timeline
    ? [["path", "start", "end", "class", "score"],
       ...timeline.segments.map((s) => [timeline.video, s.start, s.end, s.class, s.score])]
    : [["path", "class", "score"], ...prediction.top.map((t) => [prediction.video, t.class, t.score])];
  save(`${prediction.video}.csv`, "text/csv", rows.map((row) => `${row.map(cell).join(",")}\r\n`).join(""));
}
