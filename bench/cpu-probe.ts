// Preloaded into every server under test (`--import`): answers, over the IPC channel, what the process has used so far.
// The process's own accounting is the figure, so the server itself needs no change and serves no extra route.

process.on('message', (message: unknown) => {
  if (message !== 'usage' || !process.send) return
  const { user, system } = process.cpuUsage()
  process.send({
    kind: 'usage',
    userMicros: user,
    systemMicros: system,
    rssBytes: process.memoryUsage.rss(),
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  })
})
// Listening must not keep alive a server that wants to end, and a server whose runner is gone must end.
process.channel?.unref()
process.on('disconnect', () => process.exit(0))
