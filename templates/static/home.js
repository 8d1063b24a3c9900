"use strict";

/* The home page: makes follows by the API, and polls the syncs that have not ended. */

const settings = document.body.dataset;
const pollSeconds = Number(settings.pollSeconds);
const busySeconds = Math.min(0.4, pollSeconds); // while few bars move, they move smoothly
const fewBars = 4;

const form = document.getElementById("new-follow");
const list = document.getElementById("follows");
const more = document.getElementById("more");
const fieldNames = ["followerShopId", "sourceShopId", "mode", "markupPercentage"];
const words = { waiting: "Waiting", active: "Syncing", completed: "Completed", failed: "Failed" };

const rows = new Map(); // follow id -> its <li>
const open = new Set(); // ids of the follows whose sync has not ended
let nextCursor = null;
let timer = null;

class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The server answered ${status}.`);
    this.status = status;
    this.errors = body.errors || [];
  }
}

async function call(url, options = {}) {
  const headers = { Accept: "application/json", ...options.headers };
  const response = await fetch(url, { ...options, headers, credentials: "same-origin" });
  if (response.status === 401) {
    window.location.reload(); // the session has ended: the page leads to the sign-in
  }
  const body = await response.json().catch(() => ({}));
  if (!response.ok) {
    throw new Problem(response.status, body);
  }
  return body;
}

function shopName(id) {
  const option = form.elements.followerShopId.querySelector(`option[value="${id}"]`);
  return option ? option.textContent : `Shop ${id}`;
}

function say(id, text) {
  const place = document.getElementById(id);
  place.textContent = text;
  place.hidden = !text;
}

function rowOf(follow) {
  const row = document.getElementById("follow-template").content.cloneNode(true).firstElementChild;
  row.dataset.follow = follow.id;
  row.querySelector(".follower").textContent = shopName(follow.followerShopId);
  row.querySelector(".verb").textContent = follow.mode === "resell" ? "resells" : "monitors";
  row.querySelector(".source").textContent = shopName(follow.sourceShopId);
  row.querySelector(".markup").textContent =
    follow.mode === "resell" ? `with ${follow.markupPercentage} % markup` : "";
  const bar = row.querySelector("progress");
  bar.setAttribute("aria-label", `Sync of ${shopName(follow.followerShopId)}`);
  if (follow.mode !== "resell") {
    bar.hidden = true;
    row.dataset.status = "monitor";
    row.querySelector(".status").textContent = "Monitoring";
    row.querySelector(".detail").textContent = "Nothing is copied.";
  } else if (follow.lastSync) {
    show(row, { status: "completed", progress: 100, results: follow.lastSync });
  } else {
    show(row, { status: "waiting", progress: 0 });
    open.add(follow.id);
  }
  rows.set(follow.id, row);
  return row;
}

function show(row, state) {
  const had = row.dataset.status;
  row.dataset.status = state.status;
  row.querySelector("progress").value = state.progress;
  row.querySelector(".status").textContent = words[state.status] || state.status;
  row.querySelector(".detail").textContent = detailOf(state);
  if (had && had !== state.status && ["completed", "failed"].includes(state.status)) {
    document.getElementById("news").textContent = `${row.textContent.trim()}`.replace(/\s+/g, " ");
  }
}

function detailOf(state) {
  if (state.results) {
    const { synced, skipped, errors } = state.results;
    return `${synced} synced, ${skipped} unchanged, ${errors} ${errors === 1 ? "error" : "errors"}`;
  }
  if (state.status === "failed") {
    return state.failedReason || "";
  }
  return `${state.progress} %${state.message ? ` · ${state.message}` : ""}`;
}

async function pollOne(id) {
  const { data } = await call(`${settings.followsUrl}/${id}/sync-status`);
  show(rows.get(id), data);
  if (data.status === "completed" || data.status === "failed") {
    open.delete(id);
  }
  return data.status;
}

async function poll() {
  timer = null;
  const answers = await Promise.allSettled([...open].map(pollOne));
  const wrong = answers.find((answer) => answer.status === "rejected");
  say("list-error", wrong ? `${wrong.reason.message} Trying again.` : "");
  schedule(!wrong && open.size <= fewBars ? busySeconds : pollSeconds);
}

function schedule(seconds) {
  if (timer === null && open.size > 0) {
    timer = setTimeout(poll, seconds * 1000);
  }
}

async function loadPage() {
  try {
    const cursor = nextCursor ? `?cursor=${encodeURIComponent(nextCursor)}` : "";
    const page = await call(settings.followsUrl + cursor);
    for (const follow of page.items) {
      if (!rows.has(follow.id)) {
        list.append(rowOf(follow));
      }
    }
    nextCursor = page.nextCursor;
    more.hidden = nextCursor === null;
    say("list-error", "");
  } catch (error) {
    say("list-error", error.message);
  }
  document.getElementById("no-follows").hidden = rows.size > 0;
  schedule(0);
}

function showProblem(error) {
  const unplaced = [];
  for (const { pointer, detail } of error.errors || []) {
    const name = pointer.replace("#/", "");
    if (fieldNames.includes(name)) {
      const text = detail.replace(`${name}: `, ""); // the field stands above it
      markField(name, text.charAt(0).toUpperCase() + text.slice(1));
    } else {
      unplaced.push(detail);
    }
  }
  const isPlaced = (error.errors || []).length > 0 && unplaced.length === 0;
  say("form-error", isPlaced ? "" : unplaced.join(" ") || error.message);
  const first = form.querySelector('[aria-invalid="true"]');
  if (first) {
    first.focus();
  }
}

function markField(name, text) {
  say(`${name}-error`, text);
  const control = document.getElementById(name);
  if (control && text) {
    control.setAttribute("aria-invalid", "true");
  } else if (control) {
    control.removeAttribute("aria-invalid");
  }
}

function requested() {
  const values = new FormData(form);
  const body = {
    mode: values.get("mode"),
    followerShopId: Number(values.get("followerShopId")),
    sourceShopId: Number(values.get("sourceShopId")),
  };
  if (body.mode === "resell") {
    const markup = values.get("markupPercentage");
    body.markupPercentage = markup === "" ? null : Number(markup);
  }
  return body;
}

async function submit(event) {
  event.preventDefault();
  const button = form.querySelector("button");
  fieldNames.forEach((name) => markField(name, ""));
  say("form-error", "");
  button.disabled = true;
  try {
    const { data, message } = await call(settings.followsUrl, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": settings.csrfToken },
      body: JSON.stringify(requested()),
    });
    list.prepend(rowOf(data));
    document.getElementById("no-follows").hidden = true;
    document.getElementById("news").textContent = message;
    clearTimeout(timer);
    timer = null;
    schedule(0);
  } catch (error) {
    showProblem(error);
  } finally {
    button.disabled = false;
  }
}

function showMarkup() {
  form.elements.markupPercentage.disabled = form.elements.mode.value !== "resell";
}

form.addEventListener("submit", submit);
form.addEventListener("change", showMarkup);
more.addEventListener("click", loadPage);
showMarkup();
loadPage();
