/* Follows one job until it has ended, and resolves with it. By Server-Sent Events where they come
   through, else by polls with an ETag, as often as the server asks (retryAfter, Retry-After).

   const job = await pollJob("/api/v1/jobs/42", { onChange: (job) => draw(job.progress.percent) });

   onChange(job)  called with every new state, the first and the last included
   headers        a plain object sent along, as { Authorization: "Bearer …" }; a session needs none
   signal         an AbortSignal; the promise is then rejected with its reason
   stream         false: only poll (to one HTTP/1.1 server a browser opens six streams at most) */
export async function pollJob(url, { onChange = () => {}, headers = {}, signal, stream = true } = {}) {
  const aborted = new Promise((_, reject) => signal?.addEventListener("abort", () => reject(signal.reason)));
  aborted.catch(() => {});
  const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const ask = (to, options) => fetch(to, { headers, signal, cache: "no-store", ...options }).catch((error) => {
    if (!(error instanceof TypeError)) throw error; // a TypeError is the network's: nothing came
  });
  let job, seen, tag, streams = stream && "EventSource" in globalThis;
  const show = (text) => text === seen || onChange((job = JSON.parse((seen = text))));

  async function poll() { // returns the seconds until the next one
    const response = await ask(url, tag && { headers: { ...headers, "If-None-Match": tag } });
    if (!response || [429, 502, 503, 504].includes(response.status)) {
      return Number(response?.headers.get("Retry-After")) || 2;
    }
    const text = await response.text();
    if (response.ok) show(text);
    else if (response.status !== 304) throw Object.assign(new Error(text), { status: response.status });
    tag = response.headers.get("ETag");
    return job.retryAfter ?? 2;
  }

  async function listen() { // returns whether anything came
    let events = `${url}/events`;
    if (headers.Authorization) { // which an EventSource cannot send
      const ticket = await ask(`${url}/ticket`, { method: "POST" });
      if (!ticket?.ok) return false;
      events = new URL((await ticket.json()).eventsUrl, ticket.url);
    }
    const source = new EventSource(events);
    let came = false;
    const over = new Promise((resolve) => {
      for (const name of ["state", "progress", "end"]) {
        source.addEventListener(name, ({ data }) => (came = true, show(data), name === "end" && resolve()));
      }
      source.onerror = () => (!came || source.readyState === EventSource.CLOSED) && resolve();
    });
    const silence = pause(5).then(() => came ? over : null); // something on the way holds it back
    return Promise.race([over, silence, aborted]).finally(() => source.close()).then(() => came);
  }

  while (job?.retryAfter !== null) { // null once nothing more will change
    const seconds = await poll();
    if (job?.retryAfter === null) break;
    if (streams && job) streams = await listen();
    else await Promise.race([pause(seconds), aborted]);
  }
  return job;
}
