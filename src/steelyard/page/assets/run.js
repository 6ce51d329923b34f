// Long runs: started, followed by server-sent events, cancelled.
let stream = null;

function follow(job, done) {
  stream?.close();
  stream = new EventSource(`/jobs/${job}/events`);
  const run = () => document.getElementById('run');
  const told = event => {
    const said = JSON.parse(event.data);
    const going = said.state === 'waiting' || said.state === 'running';
    if (run()) {
      run().dataset.state = said.state;
      run().dataset.job = job;
      run().querySelector('.words').textContent = said.words;
      const bar = run().querySelector('progress');
      bar.hidden = !going;
      if (said.share) bar.value = said.share;
      else bar.removeAttribute('value');
      run().querySelector('.share').textContent = going && said.share ? `${Math.round(100 * said.share)} %` : '';
      run().querySelector('[data-cancel]').hidden = !going;
    }
    if (!going) {
      stream.close();
      stream = null;
      done(said);
    }
  };
  for (const state of ['waiting', 'running', 'done', 'failed', 'cancelled']) stream.addEventListener(state, told);
}

// Starts a run of a question; `done` when it is over.
export async function start(screen, query, done, say) {
  if (location.search !== `?${query}`) history.pushState(null, '', `?${query}`);
  try {
    const found = await fetch(`/jobs/${screen}?${query}&_again=1`, {method: 'POST'});
    const said = await found.json();
    if (!found.ok) {
      done(said);
      say(said.problems.map(p => (p.field ? `${p.field}: ${p.message}` : p.message)).join('; '), true);
      return;
    }
    say('');
    document.getElementById('run')?.scrollIntoView({block: 'nearest'});
    follow(said.job, done);
  } catch {
    say('the server does not answer; is `steelyard serve` still running?', true);
  }
}

// Follows a run that was under way when the page came.
export function resume(done) {
  const run = document.getElementById('run');
  if (!stream && run && (run.dataset.state === 'waiting' || run.dataset.state === 'running')) follow(run.dataset.job, done);
}

document.addEventListener('click', event => {
  const run = document.getElementById('run');
  if (event.target.matches?.('[data-cancel]') && run) fetch(`/jobs/${run.dataset.job}`, {method: 'DELETE'});
});
