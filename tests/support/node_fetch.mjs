// Node's own fetch with nothing but the proxy variables of its environment: prints what came back as one line of JSON.
// Arguments: method, URL, and the size of the body in bytes, 0 for none; or "stream" and a URL, for the first event alone.
const [what, url, size] = process.argv.slice(2);

async function ask() {
  const body = Number(size) ? "x".repeat(Number(size)) : undefined;
  const response = await fetch(url, { method: what, body });
  return { status: response.status, text: (await response.text()).slice(0, 1000) };
}

async function first() {
  const response = await fetch(url);
  const reader = response.body.getReader();
  const { value } = await reader.read();
  await reader.cancel();
  return { status: response.status, text: new TextDecoder().decode(value) };
}

try {
  console.log(JSON.stringify(await (what === "stream" ? first() : ask())));
} catch (error) {
  console.log(JSON.stringify({ error: String(error.cause?.message ?? error.message) }));
}
