/* Served by `python -m benchmarks.report --serve`: ask how far the launch is, and fetch results when there are new ones. */
let version = data.version || null;
async function ask(place) {
  const answer = await fetch(place);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}
async function poll() {
  try {
    const now = await ask("progress");
    $("live").hidden = false;
    $("live-bar").max = now.total || 1;
    $("live-bar").value = now.done + now.failed;
    $("live-text").textContent = now.text;
    $("live-runs").replaceChildren(...now.runs.map(({text, failed}) => make("li", text, failed ? {class: "bad"} : {})));
    if (now.version !== version) {
      data = await ask("data");
      version = now.version;
      if (!$("details").open) refresh();
    }
  } catch (error) {
    $("live-text").textContent = `No news: ${error.message}. What is below stood there before.`;
  }
  setTimeout(poll, 2000);
}
if (data.live) poll();
