// Skylark in a browser: one class, no dependencies, ECMAScript module.
//
//   const skylark = new Skylark({ api: "https://api.example.com", socket: "wss://sockets.example.com/live", token });
//   skylark.addEventListener("message", ({ detail }) => show(detail));
//   skylark.follow(conversationId, lastSeqOnScreen);
//   await skylark.connect();
//   await skylark.send(conversationId, { type: "text", text: "你好 🙂" });
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

const random = (below) => Math.random() * below;
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

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

/** One WebSocket, from its ticket to its end. */
class Connection {
  #waits;
  #owner;
  #socket = null;
  #timers = new Map();
  #ended = false;
  #established = false;

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

  /** Says how far the client has come. Asked for many times in a moment, it is said once more. */
  hello() {
    if (this.#established && !this.#timers.has("hello")) {
      this.#greet();
      this.#after("hello", this.#waits.askAgain, () => {});
    }
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
