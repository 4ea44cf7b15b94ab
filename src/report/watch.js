
"use strict";
// Asks whether the runs have gone on, and then takes over the new content; what is switched off stays off.
(() => {
  let version = VERSION;
  async function look() {
    try {
      const now = await (await fetch("/version", { cache: "no-store" })).text();
      if (now === version) return;
      const text = await (await fetch("/", { cache: "no-store" })).text();
      const page = new DOMParser().parseFromString(text, "text/html");
      if (page.querySelectorAll("body > input").length !== document.querySelectorAll("body > input").length) return location.reload();
      document.querySelector("main").replaceWith(page.querySelector("main"));
      document.querySelector("header").replaceWith(page.querySelector("header"));
      version = now;
    } catch (error) {
      // The server has ended; the page stays as it is.
    }
  }
  setInterval(look, 2000);
})();
