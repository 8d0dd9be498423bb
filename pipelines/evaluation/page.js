"use strict";
// Clips: browsers keep only a few dozen players alive, so a clip has its data only while it is near the view.
const watch = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (isIntersecting) {
      target.muted = true;
      target.src = target.dataset.src;
      target.play().catch(() => { target.controls = true; });
    } else if (target.hasAttribute("src")) {
      target.pause();
      target.removeAttribute("src");
      target.load();
    }
  }
}, { rootMargin: "300px" });
document.querySelectorAll("video[data-src]").forEach((video) => {
  watch.observe(video);
  video.addEventListener("click", () => document.fullscreenElement ? document.exitFullscreen() : video.requestFullscreen?.());
});

// Curves: the values at the step under the pointer stand in the legend.
for (const drawing of document.querySelectorAll("svg[data-series]")) {
  const series = JSON.parse(drawing.dataset.series);
  const pointer = drawing.querySelector(".pointer");
  const keys = [...drawing.parentElement.querySelectorAll(".key")];
  const width = drawing.viewBox.baseVal.width;
  drawing.addEventListener("pointermove", (event) => {
    const box = drawing.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * width;
    let at = x;
    series.forEach(({ name, points }, index) => {
      const nearest = points.reduce((best, point) => Math.abs(point[2] - x) < Math.abs(best[2] - x) ? point : best);
      if (index === 0) at = nearest[2];
      keys[index].textContent = `${name} ${Number(nearest[1].toPrecision(4))} at step ${nearest[0]}`;
    });
    pointer.setAttribute("x1", at);
    pointer.setAttribute("x2", at);
    pointer.style.visibility = "visible";
  });
  drawing.addEventListener("pointerleave", () => {
    pointer.style.visibility = "hidden";
    keys.forEach((key) => { key.textContent = key.dataset.name; });
  });
}

// Navigation: the section in view is marked.
const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.getAttribute("href").slice(1), link]));
const here = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) links.get(target.id)?.classList.toggle("here", isIntersecting);
}, { rootMargin: "-70px 0px -80% 0px" });
document.querySelectorAll("section[id]").forEach((section) => here.observe(section));
