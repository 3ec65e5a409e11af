// As fast as the job library lets a process look.
export const QUICK = { first: 0, poll: 0.5, schedule: 1, supervise: 1, heartbeat: 10, again: 0.5, retry: 1 }
