// What a process of ours holds in memory, garbage not counted: asked through Node's inspector.
import { freePort } from './server.ts'

/** For the environment of a process, and where to ask about it then. */
export async function inspected(): Promise<{ environment: Record<string, string>; heapBytes: () => Promise<number> }> {
  const port = await freePort()
  return { environment: { NODE_OPTIONS: `--inspect=127.0.0.1:${port}` }, heapBytes: () => readHeap(port) }
}

async function readHeap(port: number): Promise<number> {
  const [page] = (await (await fetch(`http://127.0.0.1:${port}/json/list`)).json()) as Array<{
    webSocketDebuggerUrl: string
  }> // Node's own list of what can be inspected
  const socket = new WebSocket(page?.webSocketDebuggerUrl ?? '')
  await new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onerror = reject
  })
  const call = (id: number, method: string) =>
    new Promise<{ usedSize: number }>((resolve, reject) => {
      socket.onmessage = ({ data }) => {
        const answer = JSON.parse(String(data))
        if (answer.id === id) resolve(answer.result)
      }
      socket.onclose = reject
      socket.send(JSON.stringify({ id, method }))
    })
  try {
    await call(1, 'HeapProfiler.collectGarbage')
    return (await call(2, 'Runtime.getHeapUsage')).usedSize
  } finally {
    socket.onclose = null
    socket.close()
  }
}
