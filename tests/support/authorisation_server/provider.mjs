// oidc-provider, set up as an issuer of access tokens for machines: client credentials and nothing else.

import crypto from 'node:crypto';

const CURVES = { ES256: 'P-256', ES384: 'P-384' };
const ALGORITHMS = ['ES256', 'ES384', 'RS256', 'PS256'];
const ENDPOINTS = ['token', 'revocation'];

/** A signing key as a private JWK, under a `kid` that there never was. */
export function makeKey(alg) {
  const pair = CURVES[alg]
    ? crypto.generateKeyPairSync('ec', { namedCurve: CURVES[alg] })
    : crypto.generateKeyPairSync('rsa', { modulusLength: 2048 });
  return { ...pair.privateKey.export({ format: 'jwk' }), alg, use: 'sig', kid: crypto.randomUUID() };
}

/** What oidc-provider keeps (tokens, clients, assertions seen): outlives a change of keys, that is, a Provider. */
export class Store {
  #kept = new Map();

  adapter = (model) => ({
    find: async (id) => this.find(model, id),
    upsert: async (id, payload, seconds) => this.put(model, id, payload, seconds),
    destroy: async (id) => { this.#kept.delete(`${model} ${id}`); },
    consume: async (id) => { this.find(model, id).consumed = Math.floor(Date.now() / 1000); },
    findByUid: async () => undefined,
    findByUserCode: async () => undefined,
    revokeByGrantId: async () => {},
  });

  find(model, id) {
    const found = this.#kept.get(`${model} ${id}`);
    return found && found.until > Date.now() ? found.payload : undefined;
  }

  put(model, id, payload, seconds = Infinity) {
    this.#kept.set(`${model} ${id}`, { payload, until: Date.now() + seconds * 1000 });
  }
}

/** The certificate that the client has shown and proven to hold, whoever issued it. */
function getCertificate(ctx) {
  return ctx.req.socket.getPeerX509Certificate?.();
}

/** Whether OpenSSL found a path from it to the configured authorities. */
function certificateAuthorized(ctx) {
  return ctx.req.socket.authorized;
}

/** RFC 8705 2.1.2: tls_client_auth_san_uri is one of the certificate's URI names, byte for byte. */
function certificateSubjectMatches(ctx, property, expected) {
  if (property !== 'tls_client_auth_san_uri') throw new Error(`this server does not compare ${property}`);
  // "URI:..., DNS:...": a value that might be taken for several is written as a JSON string.
  const names = getCertificate(ctx).subjectAltName ?? '';
  return [...names.matchAll(/(?:^|, )([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^,]*)/g)]
    .filter(([, kind]) => kind === 'URI')
    .some(([, , value]) => (value.startsWith('"') ? JSON.parse(value) : value) === expected);
}

/** RFC 8707: the audience is the resource that was asked for, if we serve it. */
function getResourceServerInfo(state, InvalidTarget, resource) {
  const info = state.resources[resource];
  if (!info) throw new InvalidTarget();
  return {
    scope: info.scope ?? '',
    audience: info.audience ?? resource,
    accessTokenTTL: info.ttl ?? state.ttl,
    accessTokenFormat: info.format ?? 'jwt',
    jwt: { sign: { alg: state.keys[0].alg } },
  };
}

function aliases(config) {
  if (config.mtls_port === null) return {};
  const { pathname, hostname } = new URL(config.issuer);
  const base = `https://${hostname}:${config.mtls_port}${pathname === '/' ? '' : pathname}`;
  return { mtls_endpoint_aliases: { token_endpoint: `${base}/token`, revocation_endpoint: `${base}/token/revocation` } };
}

function setup(config, state, store, InvalidTarget) {
  const { alg } = state.keys[0];
  return {
    adapter: store.adapter,
    jwks: { keys: state.keys },
    clientAuthMethods: [
      'client_secret_basic', 'client_secret_post', 'private_key_jwt', 'tls_client_auth', 'self_signed_tls_client_auth',
    ],
    enabledJWA: { clientAuthSigningAlgValues: ALGORITHMS, idTokenSigningAlgValues: ALGORITHMS },
    clientDefaults: {
      grant_types: ['client_credentials'], response_types: [], redirect_uris: [], id_token_signed_response_alg: alg,
    },
    discovery: aliases(config),
    extraTokenClaims: (ctx, token) => state.claims[token.clientId],
    ttl: { ClientCredentials: (ctx, token) => token.resourceServer?.accessTokenTTL ?? state.ttl },
    features: {
      devInteractions: { enabled: false },
      userinfo: { enabled: false },
      rpInitiatedLogout: { enabled: false },
      clientCredentials: { enabled: true },
      revocation: { enabled: true },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo: (ctx, resource) => getResourceServerInfo(state, InvalidTarget, resource),
      },
      mTLS: {
        enabled: true,
        certificateBoundAccessTokens: true,
        tlsClientAuth: true,
        selfSignedTlsClientAuth: true,
        getCertificate,
        certificateAuthorized,
        certificateSubjectMatches,
      },
    },
  };
}

/** A JWT is nothing that oidc-provider keeps, so it refuses to revoke one. Here it finds an opaque token in its place. */
async function nameJwt(ctx, next, state) {
  if (state.revoke_jwt && ctx.method === 'POST' && ctx.path === '/token/revocation') {
    const chunks = [];
    for await (const chunk of ctx.req) chunks.push(chunk);
    const form = new URLSearchParams(Buffer.concat(chunks).toString());
    const jti = state.issued.get(form.get('token'));
    if (jti) form.set('token', jti);
    ctx.req.body = form.toString();
  }
  await next();
}

function remember(ctx, state, store) {
  const { params, client, entities: { ClientCredentials: token } } = ctx.oidc;
  const { iat, exp } = { iat: Math.floor(Date.now() / 1000), exp: Math.floor(Date.now() / 1000) + token.expiration };
  state.tokens.push({
    client_id: client.clientId,
    method: client.clientAuthMethod,
    jti: token.jti,
    audience: token.aud ?? null,
    scope: token.scope ?? '',
    resource: params.resource ?? null,
    expires_in: token.expiration,
    x5t: token['x5t#S256'] ?? null,
  });
  if (token.format !== 'jwt') return;
  state.issued.set(ctx.body.access_token, token.jti);
  store.put('ClientCredentials', token.jti, { iat, exp, jti: token.jti, kind: token.kind, clientId: client.clientId },
    token.expiration);
}

/** A provider that signs with the first of `state.keys` and publishes all of them. */
export function makeProvider({ Provider, errors }, config, state, store) {
  const provider = new Provider(config.issuer, setup(config, state, store, errors.InvalidTarget));
  provider.use((ctx, next) => nameJwt(ctx, next, state));
  provider.on('grant.success', (ctx) => remember(ctx, state, store));
  provider.on('client_credentials.destroyed', (token) => {
    state.revoked.push({ client_id: token.clientId, jti: token.jti });
  });
  for (const endpoint of ENDPOINTS) {
    provider.on(endpoint === 'token' ? 'grant.error' : 'revocation.error', (ctx, error) => {
      const { error: code, error_description: said, error_detail: detail } = error;
      state.errors.push({ endpoint, error: code, description: detail ?? said ?? null });
    });
  }
  provider.on('server_error', (ctx, error) => {
    console.error(error);
    state.errors.push({ endpoint: 'server', error: 'server_error', description: String(error) });
  });
  return provider;
}
