// An authorisation server for the tests: oidc-provider behind HTTPS, and a control port where a test changes it.
//
//     node server.mjs CONFIGURATION.json FOLDER-WITH-NODE_MODULES
//
// tests/support/issuer.py starts it and says what the configuration and the control port know. Two listeners, as in a
// deployment: one asks for no client certificate, the other does and takes any (RFC 8705 5). It ends with its stdin.

import fs from 'node:fs';
import http from 'node:http';
import https from 'node:https';
import { createRequire } from 'node:module';
import net from 'node:net';

import { isMode, misbehave } from './faults.mjs';
import { Store, makeKey, makeProvider } from './provider.mjs';

const LOOPBACK = '127.0.0.1';
const REMEMBERED = 10_000; // of the last requests
const [file, folder] = process.argv.slice(2);
const library = createRequire(`${folder}/`)('oidc-provider');
const config = JSON.parse(fs.readFileSync(file, 'utf8'));
const prefix = new URL(config.issuer).pathname.replace(/\/$/, '');

const store = new Store();
const state = {
  ...{ ttl: config.ttl, resources: config.resources, claims: config.claims, revoke_jwt: config.revoke_jwt },
  ...{ keys: [], faults: {}, ahead: 0, issued: new Map(), open: new Set() },
  ...{ counts: {}, connections: { plain: 0, mtls: 0 }, requests: [], tokens: [], errors: [], revoked: [] },
};
let answer; // of the provider that is in force

const machine = Date.now;
Date.now = () => machine() + state.ahead; // where oidc-provider reads the time

function useKeys(keys) {
  state.keys = keys;
  fs.writeFileSync(config.keys, JSON.stringify(keys), { mode: 0o600 });
  answer = makeProvider(library, config, state, store).callback();
}

// -- HTTPS ------------------------------------------------------------------------------------------------------------

function endpointOf(path) {
  if (path.includes('/.well-known/')) return 'metadata';
  return { '/token': 'token', '/jwks': 'jwks', '/token/revocation': 'revocation' }[path.slice(prefix.length)] ?? 'other';
}

/** The path as oidc-provider knows it. RFC 8414 3.1 puts an issuer's path behind the well-known one, OpenID before it. */
function route(request) {
  const known = '/.well-known/oauth-authorization-server';
  if (prefix && request.url === `${known}${prefix}`) request.url = known;
  else if (prefix) request.url = request.url.startsWith(`${prefix}/`) ? request.url.slice(prefix.length) : '/nowhere';
  request.originalUrl = `${prefix}${request.url}`; // where oidc-provider reads what it is mounted at
}

function faultFor(endpoint) {
  const name = state.faults[endpoint] ? endpoint : 'all';
  const fault = state.faults[name];
  if (fault?.times !== undefined && (fault.times -= 1) === 0) delete state.faults[name];
  return fault ?? { mode: 'ok' };
}

async function serve(listener, sockets, request, response) {
  const path = request.url.split('?', 1)[0];
  const endpoint = endpointOf(path);
  state.counts[endpoint] = (state.counts[endpoint] ?? 0) + 1;
  state.requests.push({
    ...{ endpoint, listener, method: request.method, path, tls: request.socket.getProtocol() },
    certificate: request.socket.getPeerX509Certificate()?.fingerprint256.replaceAll(':', '').toLowerCase() ?? null,
  });
  state.requests.splice(0, state.requests.length - REMEMBERED);
  const reset = () => sockets.get(request.socket.remotePort)?.resetAndDestroy();
  if (await misbehave(faultFor(endpoint), request, response, reset)) return;
  route(request);
  await answer(request, response);
}

function listen(listener, port, tls) {
  const sockets = new Map(); // by the client's port: what carries TLS, and can be reset
  const secure = https.createServer({
    ...{ cert: fs.readFileSync(config.certificate), key: fs.readFileSync(config.key), minVersion: 'TLSv1.2', ...tls },
  });
  secure.on('request', (request, response) => serve(listener, sockets, request, response));
  const front = net.createServer((socket) => {
    state.connections[listener] += 1;
    socket.on('error', () => {});
    if (state.faults.all?.mode === 'down') return socket.resetAndDestroy();
    const { remotePort } = socket;
    sockets.set(remotePort, socket);
    state.open.add(socket);
    socket.on('close', () => { sockets.delete(remotePort); state.open.delete(socket); });
    return secure.emit('connection', socket);
  });
  front.listen(port, LOOPBACK);
}

// -- control ----------------------------------------------------------------------------------------------------------

const COMMANDS = {
  ttl: (seconds) => { state.ttl = seconds; },
  resources: (resources) => Object.assign(state.resources, resources),
  claims: (claims) => Object.assign(state.claims, claims),
  revoke_jwt: (yes) => { state.revoke_jwt = yes; },
  clients: (clients) => clients.forEach((client) => store.put('Client', client.client_id, client)),
  rotate: ({ alg, keep }) => useKeys([makeKey(alg), ...(keep ? state.keys : [])]),
  clock: (seconds) => { state.ahead = seconds * 1000; },
  fault: (faults) => {
    for (const fault of Object.values(faults)) if (!isMode(fault.mode)) throw new Error(`no such fault: ${fault.mode}`);
    Object.assign(state.faults, faults);
    if (faults.all?.mode === 'down') for (const socket of state.open) socket.resetAndDestroy();
  },
  ok: (endpoints) => {
    for (const name of endpoints.length ? endpoints : Object.keys(state.faults)) delete state.faults[name];
  },
  forget: () => {
    Object.assign(state, { counts: {}, connections: { plain: 0, mtls: 0 }, requests: [], tokens: [], errors: [], revoked: [] });
  },
};

async function control(request, response) {
  let status = 200;
  try {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const commands = chunks.length ? JSON.parse(Buffer.concat(chunks)) : {};
    for (const [name, value] of Object.entries(commands)) COMMANDS[name](value);
  } catch (error) {
    status = 400;
    console.error(error);
  }
  const { counts, connections, requests, tokens, errors, revoked } = state;
  const shown = { kids: state.keys.map(({ kid }) => kid), counts, connections, requests, tokens, errors, revoked };
  response.writeHead(status, { 'Content-Type': 'application/json' }).end(JSON.stringify(shown));
}

COMMANDS.clients(config.clients);
useKeys(fs.existsSync(config.keys) ? JSON.parse(fs.readFileSync(config.keys, 'utf8')) : [makeKey(config.alg)]);
const asking = { requestCert: true, rejectUnauthorized: false, ca: fs.readFileSync(config.client_ca) };
const only = config.mtls_port === null;
listen(only ? 'mtls' : 'plain', config.port, { maxVersion: config.max_version, ...(only ? asking : {}) });
if (!only) listen('mtls', config.mtls_port, { maxVersion: config.mtls_max_version, ...asking });
http.createServer(control).listen(config.control_port, LOOPBACK);
process.stdin.on('end', () => process.exit()).resume();
