// OpenAI's chat completions, responses and embeddings.
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

const chat: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    const problem = problemOfNumbers(request, { max_completion_tokens: 0, max_tokens: 0, n: 1 })
    if (problem !== undefined) return { ok: false, problem }
    const limits = ['max_completion_tokens', 'max_tokens'].flatMap((name) => limitAt(request, name) ?? [])
    const mostOutputTokens = limits.length === 0 ? undefined : Math.max(...limits) // which of them holds is not ours to say
    const choices = limitAt(request, 'n') ?? 1
    // Without it a stream says nothing of what was used.
    const options = isJson(request.stream_options) ? request.stream_options : {}
    const telling: Json =
      request.stream === true ? { ...request, stream_options: { ...options, include_usage: true } } : request
    return { ok: true, model, mostOutputTokens, choices, request: telling }
  },
  bound: boundOf,
  createReader: () =>
    readerOf({
      usageIn: (message) => memberOf(message, 'usage'),
      tells: [INPUT, OUTPUT],
      // Some tell with every part what it is until then.
      isLast: (message) => listAt(message, 'choices').every((choice) => memberOf(choice, 'finish_reason') != null),
      textIn: (message) =>
        sum(listAt(message, 'choices'), (choice) => {
          const delta = memberOf(choice, 'delta')
          const calls = [
            ...listAt(delta, 'tool_calls').map((one) => memberOf(one, 'function')),
            memberOf(delta, 'function_call'),
          ]
          const said = textBytesAt(delta, 'content', 'refusal', 'reasoning', 'reasoning_content')
          return said + sum(calls, (one) => textBytesAt(one, 'name', 'arguments'))
        }),
    }),
}

const responses: Metered = {
  plan(request) {
    const model = modelOf(request)
    if (model === undefined) return NO_MODEL
    if (request.background === true)
      return { ok: false, problem: 'A response in the background tells nobody what it used: leave out “background”.' }
    const problem = problemOfNumbers(request, { max_output_tokens: 0 })
    if (problem !== undefined) return { ok: false, problem }
    return { ok: true, model, mostOutputTokens: limitAt(request, 'max_output_tokens'), choices: 1, request }
  },
  bound: boundOf,
  createReader: () =>
    readerOf({
      usageIn: (message) => memberOf(message, 'response', 'usage') ?? memberOf(message, 'usage'),
      tells: [INPUT, OUTPUT],
      isLast: () => true,
      textIn: (message) => textBytesAt(message, 'delta'),
    }),
}

const embeddings: Metered = {
  plan(request) {
    const model = modelOf(request)
    return model === undefined ? NO_MODEL : { ok: true, model, mostOutputTokens: 0, choices: 1, request }
  },
  bound: () => ({ ok: true, besides: 0 }),
  createReader() {
    const usageIn = (message: unknown) => memberOf(message, 'usage')
    const reader = readerOf({ usageIn, tells: [INPUT], isLast: () => true, textIn: () => 0 })
    return { ...reader, skip: () => {} } // what it answers is no text
  },
}

const INPUT = ['input_tokens', 'prompt_tokens']
const OUTPUT = ['output_tokens', 'completion_tokens']

interface Telling {
  usageIn(message: unknown): unknown
  /** What a usage that tells something has counts of. */
  tells: ReadonlyArray<readonly string[]>
  isLast(message: unknown): boolean
  /** Bytes of what was generated. */
  textIn(message: unknown): number
}

/** The last usage that is told is the whole of it. Cached tokens are among those of the input. */
function readerOf({ usageIn, tells, isLast, textIn }: Telling): UsageReader {
  let told: unknown
  let [isLastTold, textBytes] = [false, 0]
  return {
    read(message) {
      textBytes += textIn(message)
      const usage = usageIn(message)
      if (!tells.every((names) => names.some((name) => isCountAt(usage, name)))) return
      told = usage
      isLastTold = isLast(message)
    },
    skip(bytes) {
      textBytes += bytes
    },
    seen() {
      if (told === undefined) return { told: undefined, isLast: false, textBytes }
      const input = countAt(told, 'input_tokens') || countAt(told, 'prompt_tokens')
      const cached =
        countAt(told, 'input_tokens_details', 'cached_tokens') ||
        countAt(told, 'prompt_tokens_details', 'cached_tokens')
      const cacheReadTokens = Math.min(cached, input)
      const usage = {
        inputTokens: input - cacheReadTokens,
        outputTokens: countAt(told, 'output_tokens') || countAt(told, 'completion_tokens'),
        cacheReadTokens,
        cacheWriteTokens: 0,
        longCacheWriteTokens: 0,
      }
      return { told: usage, isLast: isLastTold, textBytes }
    },
  }
}

function sum<T>(parts: readonly T[], sizeOf: (part: T) => number): number {
  return parts.reduce((all, part) => all + sizeOf(part), 0)
}

/** The caller runs these; the provider runs the others, as often as it takes, and some have a fee. */
const TOOLS_OF_CALLERS = new Set(['function', 'custom'])
/** Read as so many tokens as they show, not as they are long. */
const NO_TEXT = new Set(['image_url', 'input_image', 'input_audio', 'file', 'input_file', 'item_reference'])

const WHOLE_ITEMS = new Set([
  'message',
  'function_call',
  'function_call_output',
  'custom_tool_call',
  'custom_tool_call_output',
])

/** An earlier item by its id: the provider reads what it kept of it. */
function isKeptThere(item: unknown): boolean {
  const isWhole = WHOLE_ITEMS.has(String(memberOf(item, 'type') ?? 'message'))
  return !isWhole && memberOf(item, 'id') != null && memberOf(item, 'encrypted_content') == null
}

function boundOf(request: Json): Bound {
  const foreign = listAt(request, 'tools').some((tool) => !TOOLS_OF_CALLERS.has(String(memberOf(tool, 'type'))))
  // A stored prompt may bring tools.
  if (foreign || request.web_search_options != null || request.prompt != null)
    return unbounded('tools that the provider runs')
  if (request.prediction != null) return unbounded('a prediction') // what of it was wrong is output, beyond any limit
  if (!['auto', 'default'].includes(String(request.service_tier ?? 'auto'))) return unbounded('another service tier')
  const isMore =
    request.previous_response_id != null ||
    request.conversation != null ||
    hasObject(
      [request.messages, request.input],
      ({ type, file_id }) => NO_TEXT.has(String(type)) || file_id !== undefined,
    ) ||
    listAt(request, 'input').some(isKeptThere)
  return { ok: true, besides: isMore ? 'context' : 0 }
}

const price = (
  model: string,
  input: number,
  output: number,
  cacheRead: number,
  mostOutputTokens: number,
  contextTokens: number,
) => ({ model, input, output, cacheRead, mostOutputTokens, contextTokens })

const embedding = (model: string, input: number) => ({
  model,
  input,
  output: 0,
  mostOutputTokens: 0,
  contextTokens: 300_000,
})

export const openai: ProviderType = {
  type: 'openai',
  name: 'OpenAI',
  baseUrl: 'https://api.openai.com',
  example: 'sk-…',
  headers: (apiToken) => ({ authorization: `Bearer ${apiToken}` }),
  verification: { path: '/v1/models', isGood: (answer) => Array.isArray(memberOf(answer, 'data')) },
  passedHeaders: ['openai-beta'],
  endpoints: [
    { method: 'POST', path: '/v1/chat/completions', query: [], summary: 'Create a chat completion', metered: chat },
    { method: 'POST', path: '/v1/responses', query: [], summary: 'Create a response', metered: responses },
    { method: 'POST', path: '/v1/embeddings', query: [], summary: 'Create embeddings', metered: embeddings },
    { method: 'GET', path: '/v1/models', query: [], summary: 'List models' },
  ],
  prices: [
    price('gpt-5', 1_250, 10_000, 125, 128_000, 400_000),
    price('gpt-5-mini', 250, 2_000, 25, 128_000, 400_000),
    price('gpt-5-nano', 50, 400, 5, 128_000, 400_000),
    price('gpt-4.1', 2_000, 8_000, 500, 32_768, 1_047_576),
    price('gpt-4.1-mini', 400, 1_600, 100, 32_768, 1_047_576),
    price('gpt-4o', 2_500, 10_000, 1_250, 16_384, 128_000),
    price('gpt-4o-2024-05-13', 5_000, 15_000, 5_000, 4_096, 128_000),
    price('gpt-4o-mini', 150, 600, 75, 16_384, 128_000),
    embedding('text-embedding-3-small', 20),
    embedding('text-embedding-3-large', 130),
  ],
}
