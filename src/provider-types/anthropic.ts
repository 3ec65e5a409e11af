// Anthropic's Messages API.
import {
  type Bound,
  countAt,
  hasObject,
  isCountAt,
  isJson,
  type Json,
  limitAt,
  listAt,
  type Metered,
  memberOf,
  modelOf,
  NO_MODEL,
  type ProviderType,
  problemOfNumbers,
  textBytesAt,
  type UsageReader,
  unbounded,
} from './rules.ts'

const API_VERSION = '2023-06-01'

const messages: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    const problem = problemOfNumbers(request, { max_tokens: 0 })
    if (problem !== undefined) return { ok: false, problem }
    const limit = limitAt(request, 'max_tokens')
    // With a beta more may be thought than is answered.
    const mostOutputTokens = limit && Math.max(limit, limitAt(request, 'thinking', 'budget_tokens') ?? 0)
    return { ok: true, model, mostOutputTokens, choices: 1, request }
  },
  bound: boundOf,
  createReader,
}

/** Counts of message_start and of message_delta are of all until then: the highest is the last. */
function createReader(): UsageReader {
  const counts = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0, longCacheWrite: 0, cacheWriteByTime: 0 }
  let [isInputTold, isOutputTold, textBytes] = [false, false, 0] // the output: to its end
  const most = (name: keyof typeof counts, count: number) => {
    counts[name] = Math.max(counts[name], count)
  }
  return {
    read(message) {
      const delta = memberOf(message, 'delta')
      textBytes += textBytesAt(delta, 'text', 'partial_json', 'thinking')
      const start = memberOf(message, 'message', 'usage')
      const usage = start ?? memberOf(message, 'usage') // of message_delta, or of the whole answer
      if (!isJson(usage)) return
      isInputTold ||= isCountAt(usage, 'input_tokens')
      isOutputTold ||= start === undefined && isCountAt(usage, 'output_tokens')
      const long = countAt(usage, 'cache_creation', 'ephemeral_1h_input_tokens')
      most('input', countAt(usage, 'input_tokens'))
      most('output', countAt(usage, 'output_tokens'))
      most('cacheRead', countAt(usage, 'cache_read_input_tokens'))
      most('cacheWrite', countAt(usage, 'cache_creation_input_tokens'))
      most('longCacheWrite', long)
      most('cacheWriteByTime', long + countAt(usage, 'cache_creation', 'ephemeral_5m_input_tokens'))
    },
    skip(bytes) {
      textBytes += bytes
    },
    seen() {
      const written = Math.max(counts.cacheWrite, counts.cacheWriteByTime)
      // Where nobody said for how long they are kept, the dearer one is meant.
      const long = counts.cacheWriteByTime === 0 ? written : counts.longCacheWrite
      const told = {
        inputTokens: counts.input,
        outputTokens: counts.output,
        cacheReadTokens: counts.cacheRead,
        cacheWriteTokens: written - long,
        longCacheWriteTokens: long,
      }
      return { told: isInputTold ? told : undefined, isLast: isInputTold && isOutputTold, textBytes }
    },
  }
}

/** What the caller runs; the provider runs the others, as often as it takes, and some have a fee. */
const TOOLS_OF_CALLERS = /^(?:custom|bash_\d+|text_editor_\d+|computer_\d+|memory_\d+)$/
/** What a tool, or the form of an answer, brings into a prompt besides its own description, and generously. */
const TOKENS_A_TOOL = 1_000
/** Read as so many tokens as they show, not as they are long. */
const NO_TEXT = new Set(['image', 'document', 'file', 'url', 'base64', 'container_upload'])

/** Betas that change no price, make no model give or take more, and have no answers besides the one that is told. */
const BETAS =
  /^(?:claude-code|computer-use|context-management|effort|extended-cache-ttl|files-api|fine-grained-tool-streaming|interleaved-thinking|oauth|pdfs|prompt-caching|structured-outputs|token-counting|token-efficient-tools)-[\d-]+$/

function betasIn(headers: Readonly<Record<string, string>>): string[] {
  return (headers['anthropic-beta'] ?? '').split(',').flatMap((beta) => beta.trim().toLowerCase() || [])
}

function boundOf(request: Json, headers: Readonly<Record<string, string>>): Bound {
  const tools = listAt(request, 'tools')
  const foreign = tools.find((tool) => !TOOLS_OF_CALLERS.test(String(memberOf(tool, 'type') ?? 'custom')))
  if (foreign !== undefined || request.mcp_servers != null || request.container != null)
    return unbounded('tools that the provider runs')
  if (!['auto', 'standard', 'standard_only'].includes(String(request.service_tier ?? 'auto')))
    return unbounded('another service tier')
  if (String(request.speed ?? 'standard') !== 'standard' || request.inference_geo != null)
    return unbounded('another speed or place')
  if (betasIn(headers).some((beta) => !BETAS.test(beta))) return unbounded('a beta that is not known here')
  const isMore = hasObject(
    [request.messages, request.system],
    ({ type, file_id }) => NO_TEXT.has(String(type)) || file_id !== undefined,
  )
  const isFormatted = request.output_format != null || request.output_config != null
  const described = tools.length === 0 ? 0 : tools.length + 1
  return { ok: true, besides: isMore ? 'context' : (described + Number(isFormatted)) * TOKENS_A_TOOL }
}

const price = (model: string, input: number, output: number, mostOutputTokens: number) => ({
  model,
  input,
  output,
  cacheRead: input / 10,
  cacheWrite: input * 1.25,
  longCacheWrite: input * 2,
  mostOutputTokens,
  contextTokens: 200_000,
})

/** Client libraries send it with what is a beta; the header says which. */
const BETA = ['beta']

export const anthropic: ProviderType = {
  type: 'anthropic',
  name: 'Anthropic',
  baseUrl: 'https://api.anthropic.com',
  example: 'sk-ant-…',
  headers: (apiToken) => ({ 'x-api-key': apiToken, 'anthropic-version': API_VERSION }),
  verification: { path: '/v1/models?limit=1', isGood: (answer) => Array.isArray(memberOf(answer, 'data')) },
  passedHeaders: ['anthropic-version', 'anthropic-beta'],
  keyHeader: 'x-api-key',
  endpoints: [
    { method: 'POST', path: '/v1/messages', query: BETA, summary: 'Create a message', metered: messages },
    { method: 'POST', path: '/v1/messages/count_tokens', query: BETA, summary: 'Count the tokens of a message' },
    { method: 'GET', path: '/v1/models', query: ['limit', 'after_id', 'before_id', ...BETA], summary: 'List models' },
  ],
  prices: [
    price('claude-opus-4-5', 5_000, 25_000, 64_000),
    price('claude-opus-4-1', 15_000, 75_000, 32_000),
    price('claude-sonnet-4-5', 3_000, 15_000, 64_000),
    price('claude-haiku-4-5', 1_000, 5_000, 64_000),
    price('claude-3-5-haiku', 800, 4_000, 8_192),
  ],
}
