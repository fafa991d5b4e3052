// Puts what is new into the page every two seconds, and leaves open what a person opened.
"use strict";
const main = document.getElementById("main");
const sign = document.getElementById("live");
let seen = "";

function replace(text) {
  const open = new Map();
  for (const details of main.querySelectorAll("details[id]")) open.set(details.id, details.open);
  main.innerHTML = text;
  for (const [id, was] of open) {
    const details = document.getElementById(id);
    if (details) details.open = was;
  }
}

async function update() {
  try {
    const answer = await fetch("main", seen ? { headers: { "If-None-Match": seen } } : {});
    if (answer.status === 200) {
      const text = await answer.text();
      // Somebody who is copying is not to be disturbed.
      if (String(getSelection()) === "") {
        seen = answer.headers.get("ETag") || "";
        replace(text);
      }
    }
    sign.textContent = "live";
    sign.className = "";
  } catch {
    sign.textContent = "no connection";
    sign.className = "lost";
  }
  setTimeout(update, 2000);
}

setTimeout(update, 2000);
