// The requests to the service. Errors are instances of Problem, with the line of the service.
export class Problem extends Error {}

let token = "";

export function setToken(value) {
  token = value;
}

async function request(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem("");
  }
  if (response.ok) return response;
  const body = await response.json().catch(() => ({}));
  throw new Problem(body.detail ?? `${response.status} ${response.statusText}`);
}

async function ask(path, options) {
  return (await request(path, options)).json();
}

function form(file) {
  const data = new FormData();
  data.append("video", file, file.name);
  return data;
}

export const model = () => ask("/v1/model");
export const samples = () => ask("/samples");
export const sample = async (name) => (await request(`/samples/${name}`)).blob();

export function predict(file, signal) {
  return ask("/v1/predict", { method: "POST", body: form(file), signal });
}

export function explain(file, name, time) {
  const query = new URLSearchParams({ time, class: name });
  return ask(`/v1/explain?${query}`, { method: "POST", body: form(file) });
}

// Start a timeline, and return its result when it is done. `each` gets the progress, from 0 to 1.
export async function timeline(file, signal, each) {
  const job = await ask("/v1/timeline", { method: "POST", body: form(file), signal });
  const place = `/v1/timeline/${job.id}`;
  let pause = 100;
  while (!signal.aborted) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 1.5, 1000);
    const found = await ask(`${place}?scores=true`);
    each(found.progress);
    if (found.state === "done") return found.timeline;
    if (found.state === "failed") throw new Problem(found.problem.detail);
  }
  await ask(place, { method: "DELETE" }).catch(() => {});
  throw new DOMException("canceled", "AbortError");
}
