// Calls a server with LangChain.js's RemoteRunnable; argument: its URL. Prints what it got as one line of JSON.
import { RemoteRunnable } from "@langchain/core/runnables/remote";

const remote = new RemoteRunnable({ url: process.argv[2] });
const collect = async (stream) => {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return chunks;
};
const stream = await collect(await remote.stream("x"));
const invoke = await remote.invoke("x");
const log = await collect(remote.streamLog("x"));
const ops = log.flatMap((patch) => patch.ops).filter((op) => op.path === "/streamed_output/-");
console.log(JSON.stringify({ stream, invoke, log: ops.map((op) => op.value) }));
