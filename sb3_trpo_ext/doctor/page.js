"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)");
  const LEGEND_ROW = 20, PLOT_HEIGHT = 300;

  const colours = () => {
    const style = getComputedStyle(document.documentElement);
    const value = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: value("--line"), zerolinecolor: value("--line"), linecolor: value("--line") };
    return { paper: value("--card"), text: value("--text"), axis };
  };

  // A legend needs a row for every few letters that do not fit; the plot itself keeps its height.
  const height = (figure, width) => {
    let rows = 1, used = 0;
    for (const trace of figure.layout.showlegend ? figure.data : []) {
      if (trace.showlegend === false) continue;
      const entry = 50 + 6.5 * trace.name.length;
      if (used + entry > width && used) { rows += 1; used = 0; }
      used += entry;
    }
    return PLOT_HEIGHT + LEGEND_ROW * rows;
  };

  const layout = (figure, place) => {
    const { paper, text, axis } = colours();
    return {
      ...figure.layout,
      height: height(figure, place.clientWidth),
      paper_bgcolor: paper, plot_bgcolor: paper,
      font: { color: text, size: 12, family: "system-ui, sans-serif" },
      hoverlabel: { bgcolor: paper, bordercolor: axis.gridcolor, font: { color: text } },
      xaxis: { ...figure.layout.xaxis, ...axis }, yaxis: { ...figure.layout.yaxis, ...axis },
      // A finger that passes over a plot scrolls the page; the buttons zoom.
      dragmode: touch.matches ? false : "zoom",
    };
  };

  const draw = () => Promise.all(Object.entries(figures).map(([key, figure]) => {
    const place = document.getElementById(`plot-${key}`);
    const config = { responsive: true, displaylogo: false, displayModeBar: touch.matches ? true : "hover",
      modeBarButtons: [["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
    return Plotly.react(place, figure.data, layout(figure, place), config);
  })).then(() => { document.body.dataset.drawn = String(Object.keys(figures).length); });

  dark.addEventListener("change", draw);
  draw();
})();
