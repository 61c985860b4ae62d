// Skylark in a browser: one class, no dependencies, ECMAScript module.
//
//   const skylark = new Skylark({ api: "https://api.example.com", socket: "wss://sockets.example.com/live", token });
//   skylark.addEventListener("message", ({ detail }) => show(detail));
//   skylark.follow(conversationId, lastSeqOnScreen);
//   await skylark.connect();
//   await skylark.send(conversationId, { type: "text", text: "你好 🙂" });
//   const { file_id } = await skylark.upload(conversationId, input.files[0], { onProgress: ({ sent, total }) => show(sent / total) });
//   await skylark.send(conversationId, { type: "file", file_id });
//
// `token` is called for an access token (and with `true` for another one, when the API refused the last). It may be asynchronous; the secret
// that tokens are made of belongs on your server, never in a page.
//
// Events: "message" (each message of a conversation once, in order), "status", "read", "file", "state" ("connecting", "open", "closed").

const SECOND = 1000;
const MINUTE = 60 * SECOND;

/** Waits that fit a crowd: whoever changes them should know that API Gateway opens 500 connections a second for everybody together. */
const WAITS = {
  ping: 4 * MINUTE, // and up to half a minute more or less: an idle connection is cut after ten
  pingJitter: 30 * SECOND,
  pong: 10 * SECOND, // how long an answer may take before the connection counts as dead
  rotateAfter: 90 * MINUTE, // a connection ends after two hours; another one takes over before, at a time of its own
  rotateWithin: 25 * MINUTE,
  firstRetry: 30 * SECOND, // everybody comes back at once after an outage: within this time, at random
  retry: SECOND, // then after up to twice as long each time
  longestRetry: MINUTE,
  askAgain: SECOND, // how soon after a hello another one may follow
};

/** How many messages are read at a time, and how many conversations a hello names. */
const PAGE = 100;
const HELLO = 200;

/** How many chunks are signed at a time, how often one is sent, and how often those that the API misses are. */
const SIGNED = 20;
const CHUNK_TRIES = 5;
const ROUNDS = 5;

/** How many bytes are summed up at a time: the page must be able to breathe in between. */
const PIECE = 1024 * 1024;

const random = (below) => Math.random() * below;
const sleep = (ms, signal) =>
  new Promise((done, fail) => {
    setTimeout(done, ms);
    signal?.addEventListener("abort", () => fail(signal.reason), { once: true });
  });

/** An answer that is no success. `status`, `code` and `details` are the API's. */
export class SkylarkError extends Error {
  constructor(status, body) {
    super(body?.message ?? `the API answered ${status}`);
    this.name = "SkylarkError";
    this.status = status;
    this.code = body?.error ?? "unknown";
    this.details = body?.details ?? {};
  }
}

export class Skylark extends EventTarget {
  #api;
  #socket;
  #token;
  #waits;
  #last = new Map(); // conversation -> number of the last message that was shown
  #reading = new Map(); // conversation -> frames that wait until its history is read
  #connection = null;
  #wanted = false;
  #failures = 0;
  #retry = null;

  constructor({ api, socket, token, waits = {} }) {
    super();
    this.#api = api.replace(/\/$/, "");
    this.#socket = socket;
    this.#token = token;
    this.#waits = { ...WAITS, ...waits };
  }

  // ---------------------------------------------------------------------------------------------- live

  /** Messages after `lastSeq` are wanted, from now on and after every reconnection. */
  follow(conversationId, lastSeq = 0) {
    this.#last.set(conversationId, lastSeq);
    this.#connection?.hello();
  }

  /** Connects, and stays connected until `close`. Resolves once the first connection is open. */
  async connect() {
    this.#wanted = true;
    const opened = new Promise((done) => {
      const listen = ({ detail }) => {
        if (detail !== "open") return;
        this.removeEventListener("state", listen);
        done();
      };
      this.addEventListener("state", listen);
    });
    this.#open();
    await opened;
  }

  close() {
    this.#wanted = false;
    clearTimeout(this.#retry);
    this.#connection?.end();
    this.#connection = null;
    this.#tell("state", "closed");
  }

  /** Opens a connection. The one before serves until this one is up to date, so that nothing waits. */
  async #open() {
    const before = this.#connection;
    if (!before) this.#tell("state", "connecting");
    const connection = new Connection(this.#waits, {
      positions: () => Object.fromEntries([...this.#last].slice(-HELLO)),
      established: () => {
        if (!this.#wanted) return connection.end();
        this.#failures = 0;
        this.#connection = connection;
        before?.end();
        this.#tell("state", "open");
      },
      frame: (frame) => this.#hear(frame),
      rotate: () => this.#connection === connection && this.#open(),
      ended: () => {
        if (this.#connection === connection) this.#connection = null;
        if (!this.#connection && this.#wanted) this.#again();
      },
    });
    try {
      const { ticket } = await this.#call("POST", "/v1/ws-tickets", {});
      connection.start(`${this.#socket}?ticket=${encodeURIComponent(ticket)}`);
    } catch {
      if (!this.#connection && this.#wanted) this.#again();
    }
  }

  /** Full jitter: a random moment of a time that doubles. */
  #again() {
    const { firstRetry, retry, longestRetry } = this.#waits;
    const within = this.#failures === 0 ? firstRetry : Math.min(longestRetry, retry * 2 ** this.#failures);
    this.#failures += 1;
    this.#tell("state", "connecting");
    clearTimeout(this.#retry);
    this.#retry = setTimeout(() => this.#wanted && this.#open(), random(within));
  }

  #hear({ type, data }) {
    switch (type) {
      case "message.created":
      case "unrenderable":
        return this.#take(data.conversation_id, { ...data, renderable: type === "message.created" });
      case "resync_required":
        return this.#readUpTo(data.conversation_id, data.seq);
      case "message.status_updated":
        return this.#tell("status", data);
      case "conversation.read":
        return this.#tell("read", data);
      case "file.completed":
        return this.#tell("file", data);
    }
  }

  /** Shows what comes next, ignores what was shown, and asks again for what is missing. */
  #take(conversationId, message) {
    const waiting = this.#reading.get(conversationId);
    if (waiting) return waiting.push(message);
    // A conversation that nobody followed begins with the first message that is seen of it.
    const last = this.#last.get(conversationId) ?? message.seq - 1;
    if (message.seq <= last) return;
    if (message.seq > last + 1) return this.#connection?.hello();
    this.#last.set(conversationId, message.seq);
    this.#tell("message", message);
  }

  /** More was missed than a socket sends again: it is read from the history, while what arrives waits. */
  async #readUpTo(conversationId, seq) {
    if (this.#reading.has(conversationId)) return;
    const waiting = [];
    this.#reading.set(conversationId, waiting);
    try {
      let last = this.#last.get(conversationId) ?? 0;
      while (last < seq) {
        const { messages } = await this.history(conversationId, { afterSeq: last, limit: PAGE });
        if (messages.length === 0) break;
        for (const message of messages) {
          last = message.seq;
          this.#last.set(conversationId, last);
          this.#tell("message", { ...message, conversation_id: conversationId, renderable: true });
        }
      }
    } finally {
      this.#reading.delete(conversationId);
      for (const message of waiting) this.#take(conversationId, message);
    }
  }

  #tell(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }

  // ---------------------------------------------------------------------------------------------- chat

  createConversation(type, members, more = {}) {
    return this.#call("POST", "/v1/conversations", { type, members, ...more });
  }

  conversations({ limit = 50, offset = 0 } = {}) {
    return this.#call("GET", `/v1/conversations?limit=${limit}&offset=${offset}`);
  }

  history(conversationId, { afterSeq, offset = 0, limit = 50 } = {}) {
    const from = afterSeq === undefined ? `offset=${offset}` : `after_seq=${afterSeq}`;
    return this.#call("GET", `/v1/conversations/${conversationId}/messages?limit=${limit}&${from}`);
  }

  /** Sends a message. The id makes it one message however often it is tried. */
  send(conversationId, payload, { messageId = crypto.randomUUID(), ...more } = {}) {
    return this.#call("POST", "/v1/messages", { message_id: messageId, conversation_id: conversationId, payload, ...more });
  }

  /** Everything up to `seq` was read; without it, everything that there is. */
  markRead(conversationId, seq) {
    return this.#call("POST", `/v1/conversations/${conversationId}/read`, seq === undefined ? {} : { seq });
  }

  // ---------------------------------------------------------------------------------------------- files

  /**
   * Sends a `File` or `Blob` to a conversation in chunks, several at once, and resolves with the file as the API tells it: its `file_id` is
   * what a message of type `file` names. It is read once before, for the checksum that the whole must have in the end.
   *
   * Whoever keeps the id that `onBegin` is told can give it back as `uploadId` after an interruption or a reload of the page, with the same
   * bytes: then only what is missing is sent, and the first `onProgress` says what is there. `signal` stops; `remove` gives the upload up.
   */
  async upload(conversationId, file, { name = file.name, type = file.type, uploadId, chunkSize, parallel = 3, onBegin, onProgress, signal } = {}) {
    const begun = uploadId
      ? await this.#call("GET", `/v1/files/${uploadId}/status`)
      : await this.#call("POST", "/v1/files/initiate", {
          conversation_id: conversationId,
          filename: name ?? "file",
          file_size: file.size,
          mime_type: type || "application/octet-stream",
          chunk_size: chunkSize,
          checksum_crc64nvme: await crc64(file),
        });
    if (uploadId && begun.file_size !== file.size) throw new SkylarkError(409, { error: "other_file", message: "the upload is of another file" });
    const path = `/v1/files/${begun.upload_id}`;
    onBegin?.(begun.upload_id);
    let missing = begun.missing_chunks ?? Array.from({ length: begun.total_chunks }, (_, index) => index + 1);
    const slice = (number) => file.slice((number - 1) * begun.chunk_size, number * begun.chunk_size);
    let sent = file.size - missing.reduce((sum, number) => sum + slice(number).size, 0);
    const arrived = (bytes) => onProgress?.({ sent: (sent += bytes), total: file.size });
    arrived(0);
    for (let round = 1; begun.status === "uploading"; round += 1) {
      for (let at = 0; at < missing.length; at += SIGNED) await this.#sendChunks(path, missing.slice(at, at + SIGNED), { slice, parallel, arrived, signal });
      try {
        await this.#call("POST", `${path}/complete`, {});
        break;
      } catch (error) {
        if (error.code !== "incomplete_upload" || round === ROUNDS) throw error;
        missing = error.details.missing_chunks;
      }
    }
    for (let wait = 50; ; wait = Math.min(2 * wait, 2 * SECOND)) {
      signal?.throwIfAborted();
      const { status, file_id: fileId, failure } = await this.#call("GET", `${path}/status`);
      if (status === "completed") return this.file(fileId);
      if (status !== "merging" && status !== "uploading") {
        throw new SkylarkError(422, { error: failure?.code ?? `upload_${status}`, message: failure?.message ?? `the upload is ${status}` });
      }
      await sleep(wait, signal);
    }
  }

  /** A file, with a `download_url` that is good for a quarter of an hour. */
  file(fileId) {
    return this.#call("GET", `/v1/files/${fileId}`);
  }

  /** Gives an upload up, or removes a file of one's own. */
  remove(id) {
    return this.#call("DELETE", `/v1/files/${id}`);
  }

  async #sign(path, numbers, slice) {
    const checksums = [];
    for (const number of numbers) checksums.push(await crc64(slice(number)));
    return (await this.#call("POST", `${path}/chunks`, { chunk_numbers: numbers, checksums })).chunks;
  }

  async #sendChunks(path, numbers, { slice, parallel, arrived, signal }) {
    const waiting = await this.#sign(path, numbers, slice);
    const work = async () => {
      for (let chunk = waiting.shift(); chunk; chunk = waiting.shift()) {
        await this.#sendChunk(path, chunk, slice, signal);
        arrived(slice(chunk.chunk_number).size);
      }
    };
    try {
      await Promise.all(Array.from({ length: parallel }, work));
    } finally {
      waiting.length = 0; // When one has failed, the others begin no more.
    }
  }

  /** Sends a chunk until it arrives. A URL that is no longer good is asked for again. */
  async #sendChunk(path, chunk, slice, signal) {
    for (let turn = 1; ; turn += 1) {
      let problem;
      try {
        // A browser writes the length itself.
        const { "content-length": _, ...headers } = chunk.headers;
        const response = await fetch(chunk.url, { method: "PUT", headers, body: slice(chunk.chunk_number), signal });
        if (response.ok) return;
        problem = new SkylarkError(response.status, { error: "chunk_refused", message: await response.text() });
        if (response.status === 403 || response.status === 404) [chunk] = await this.#sign(path, [chunk.chunk_number], slice);
      } catch (error) {
        if (signal?.aborted || turn === CHUNK_TRIES) throw error;
        problem = error;
      }
      if (turn === CHUNK_TRIES) throw problem;
      await sleep(random(SECOND * 2 ** turn), signal);
    }
  }

  // ---------------------------------------------------------------------------------------------- calls

  /** Calls the API; tries again what may pass. Every call that changes something can be repeated without harm. */
  async #call(method, path, body) {
    let fresh = false;
    for (let turn = 0; ; turn += 1) {
      const last = turn === 4;
      const headers = { authorization: `Bearer ${await this.#token(fresh)}` };
      if (body !== undefined) headers["content-type"] = "application/json";
      let response;
      try {
        response = await fetch(this.#api + path, { method, headers, body: body && JSON.stringify(body) });
      } catch (error) {
        if (last) throw error;
        await sleep(random(SECOND * 2 ** turn));
        continue;
      }
      if (response.ok) return response.json();
      const refused = new SkylarkError(response.status, await response.json().catch(() => null));
      if (response.status === 401 && !fresh) {
        fresh = true;
      } else if ((response.status === 429 || response.status >= 500) && !last) {
        const asked = Number(response.headers.get("retry-after")) || 1;
        await sleep(asked * SECOND + random(SECOND));
      } else {
        throw refused;
      }
    }
  }
}

let crcTable = null;

/** The CRC64NVME of a blob as S3 writes it. In two halves: a number holds no 64 bits, and a BigInt is slow. */
async function crc64(blob) {
  crcTable ??= makeCrcTable();
  const { high: tableHigh, low: tableLow } = crcTable;
  let high = 0xffffffff;
  let low = 0xffffffff;
  for (let start = 0; start < blob.size; start += PIECE) {
    const bytes = new Uint8Array(await blob.slice(start, start + PIECE).arrayBuffer());
    for (let at = 0; at < bytes.length; at += 1) {
      const index = (low ^ bytes[at]) & 0xff;
      low = ((low >>> 8) | (high << 24)) ^ tableLow[index];
      high = (high >>> 8) ^ tableHigh[index];
    }
  }
  const sum = new DataView(new ArrayBuffer(8));
  sum.setUint32(0, ~high >>> 0);
  sum.setUint32(4, ~low >>> 0);
  return btoa(String.fromCharCode(...new Uint8Array(sum.buffer)));
}

function makeCrcTable() {
  const [polynomialHigh, polynomialLow] = [0x9a6c9329, 0xac4bc9b5];
  const [tableHigh, tableLow] = [new Uint32Array(256), new Uint32Array(256)];
  for (let index = 0; index < 256; index += 1) {
    let [high, low] = [0, index];
    for (let bit = 0; bit < 8; bit += 1) {
      const odd = low & 1;
      low = ((low >>> 1) | (high << 31)) >>> 0;
      high >>>= 1;
      if (odd) [high, low] = [(high ^ polynomialHigh) >>> 0, (low ^ polynomialLow) >>> 0];
    }
    [tableHigh[index], tableLow[index]] = [high, low];
  }
  return { high: tableHigh, low: tableLow };
}

/** One WebSocket, from its ticket to its end. */
class Connection {
  #waits;
  #owner;
  #socket = null;
  #timers = new Map();
  #ended = false;
  #established = false;
  #unsaid = false;

  constructor(waits, owner) {
    this.#waits = waits;
    this.#owner = owner;
  }

  start(url) {
    const socket = new WebSocket(url);
    this.#socket = socket;
    socket.onopen = () => this.#greet();
    socket.onmessage = ({ data }) => this.#hear(JSON.parse(data));
    socket.onclose = () => this.#end();
    this.#after("established", this.#waits.pong * 3, () => this.#end());
  }

  /** Says how far the client has come. Asked for many times in a moment, it is said at once and once more after it. */
  hello() {
    if (!this.#established) return;
    if (this.#timers.has("hello")) {
      this.#unsaid = true;
      return;
    }
    this.#greet();
    this.#after("hello", this.#waits.askAgain, () => {
      if (!this.#unsaid) return;
      this.#unsaid = false;
      this.hello();
    });
  }

  /** Ends the connection without a word to its owner. */
  end() {
    this.#ended = true;
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#timers.clear();
    this.#socket?.close();
  }

  #end() {
    if (this.#ended) return;
    this.end();
    this.#owner.ended();
  }

  #greet() {
    this.#send({ type: "hello", last_seq: this.#owner.positions() });
  }

  #hear(frame) {
    if (this.#ended) return;
    if (frame.type === "connection.established") {
      clearTimeout(this.#timers.get("established"));
      if (this.#established) return;
      this.#established = true;
      const { rotateAfter, rotateWithin } = this.#waits;
      this.#after("rotate", rotateAfter + random(rotateWithin), () => this.#owner.rotate());
      this.#pingLater();
      this.#owner.established();
    } else if (frame.type === "pong") {
      clearTimeout(this.#timers.get("pong"));
      this.#pingLater();
    } else {
      this.#owner.frame(frame);
    }
  }

  #pingLater() {
    const { ping, pingJitter, pong } = this.#waits;
    this.#after("ping", ping + random(2 * pingJitter) - pingJitter, () => {
      this.#send({ type: "ping" });
      this.#after("pong", pong, () => this.#end());
    });
  }

  #send(frame) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(frame));
  }

  #after(name, ms, act) {
    clearTimeout(this.#timers.get(name));
    const timer = setTimeout(() => {
      this.#timers.delete(name);
      act();
    }, ms);
    this.#timers.set(name, timer);
  }
}
