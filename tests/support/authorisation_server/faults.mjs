// Ways in which an issuer is not what its clients hope for. `fault` is {mode, delay, status, type, body, location}.

import { setTimeout as delay } from 'node:timers/promises';

const CHUNK = Buffer.alloc(64 * 1024, ' ');
const DRIP = 50; // milliseconds between two bytes

/** Each answers in place of the server, or returns false: then the server answers. */
const MODES = {
  ok: () => false,
  down: (fault, request, response, reset) => reset(),
  hang: () => {},
  slow: async (fault) => { await delay(fault.delay); return false; },
  html: (fault, request, response) => send(response, 200, 'text/html', '<!doctype html><title>Please sign in</title>'),
  500: (fault, request, response) => send(response, 500, 'text/plain', 'Internal Server Error'),
  redirect: (fault, request, response) => send(response, fault.status ?? 307, 'text/plain', '', { Location: fault.location }),
  answer: (fault, request, response) => send(response, fault.status ?? 200, fault.type ?? 'application/json', fault.body),
  cut: (fault, request, response) => {
    response.writeHead(200, { 'Content-Type': 'application/json', 'Content-Length': 1000 });
    response.write('{"', () => request.socket.end());
  },
  huge: (fault, request, response) => forever(response, CHUNK, 0),
  drip: (fault, request, response) => forever(response, CHUNK.subarray(0, 1), DRIP),
};

export const isMode = (mode) => Object.hasOwn(MODES, mode);

/** Returns false if the server itself shall answer. */
export async function misbehave(fault, request, response, reset) {
  return (await MODES[fault.mode](fault, request, response, reset)) !== false;
}

function send(response, status, type, body, more = {}) {
  response.writeHead(status, { 'Content-Type': type, 'Cache-Control': 'no-store', ...more });
  response.end(body);
}

async function forever(response, chunk, pause) {
  let open = true;
  response.on('close', () => { open = false; });
  response.writeHead(200, { 'Content-Type': 'application/json' });
  while (open) {
    const more = response.write(chunk);
    if (pause) await delay(pause);
    else if (!more) await new Promise((go) => { response.once('drain', go).once('close', go); });
    else await delay(0); // lets others in
  }
}
