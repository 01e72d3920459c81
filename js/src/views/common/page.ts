import { toBytes } from "../../wire/decode";
import type { Session } from "../../wire/session";

const POLICY =
  "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; " +
  "img-src data: blob:; font-src data:; connect-src data:; base-uri 'none'; form-action 'none'";

/** Whether the browser holds a whole picture and the module that shows it. */
export function holdsPage(session: Session): boolean {
  const whole = session.traits.snapshot.value?.byteLength && session.store.value?.complete;
  return Boolean(whole && session.held("_esm"));
}

/**
 * The page that `layerlens/export/html.py` writes, made without a kernel from what the browser
 * holds. Its host is the module of the view, which starts by itself where the root says so.
 */
export function pageOf(session: Session, title: string): string {
  const { snapshot, ...signals } = session.traits;
  const traits = Object.fromEntries(
    Object.entries(signals).map(([name, trait]) => [name, trait.value]),
  );
  const packed = base64(toBytes(snapshot.value as DataView));
  const data = JSON.stringify({ traits: { ...traits, live: false }, packed });
  const theme = traits.theme === "auto" ? "light dark" : traits.theme;
  const name = title.replace(/[&<]/g, (sign) => (sign === "&" ? "&amp;" : "&lt;"));
  const style = session.held("_css").replace(/<(?=\/style|!--)/gi, "\\3c ");
  // In a minified script these occur inside strings only, where \x3c is the same character.
  const script = session.held("_esm").replace(/<(?=\/?script|!--)/gi, "\\x3c");
  return `<!DOCTYPE html>
<html lang="en" data-layerlens="page">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="${theme}">
<title>${name}</title>
<style>:root { color-scheme: ${theme}; } body { margin: 12px; }</style>
<style>${style}</style>
</head>
<body>
<main id="layerlens-root"></main>
<script type="application/json" id="layerlens-data">${data.replace(/</g, "\\u003c")}</script>
<script type="module">${script}</script>
</body>
</html>
`;
}

function base64(bytes: Uint8Array): string {
  let text = "";
  // In parts: an argument list has a limit.
  for (let at = 0; at < bytes.length; at += 8192) {
    text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  }
  return btoa(text);
}
