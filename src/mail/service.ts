// Sends mail over SMTP (RFC 5321), in plain text. What a mail says is made elsewhere; what must never be in one is refused here.
import type { Transporter } from 'nodemailer'
import type { Secret } from '../crypto/secret.ts'
import { headerText, isPermanentRefusal, type Mail, type Refusal } from './rules.ts'

export interface MailConfig {
  url: Secret
  from: string
}

export interface Mailer {
  /**
   * @returns `refused` where the receiving side takes nothing for this address, now or later
   * @throws {Error} for what another try may mend; its words hold no address
   */
  send(mail: Mail): Promise<'sent' | 'refused'>
  close(): void
}

/** A mail server that is slow is given up after so long, and tried again later. */
const CONNECT_MS = 10_000
const SILENT_MS = 20_000

export function createMailer({ url, from }: MailConfig): Mailer {
  let opening: Promise<Transporter> | undefined

  async function open(): Promise<Transporter> {
    const { createTransport } = await import('nodemailer')
    return createTransport({
      url: url.reveal(),
      connectionTimeout: CONNECT_MS,
      greetingTimeout: CONNECT_MS,
      socketTimeout: SILENT_MS,
      disableFileAccess: true,
      disableUrlAccess: true,
    })
  }

  return {
    async send(mail) {
      opening ??= open()
      const transport = await opening
      try {
        await transport.sendMail({
          from: { name: 'Latchkey', address: from },
          to: { name: '', address: mail.to }, // an address, not a list of them
          subject: headerText(mail.subject),
          text: mail.text,
          messageId: `<${headerText(mail.id)}@${from.split('@').at(-1)}>`,
          headers: { 'Auto-Submitted': 'auto-generated' }, // RFC 3834: nobody's absence answers it
        })
        return 'sent'
      } catch (error) {
        const refusal = refusalOf(error)
        if (isPermanentRefusal(refusal)) return 'refused'
        const { code, command, responseCode, enhancedCode } = refusal
        const said = [code, command, responseCode, enhancedCode].filter(Boolean).join(' ')
        throw new Error(`the mail server did not take a mail: ${said}`)
      }
    },
    close() {
      opening?.then((transport) => transport.close()).catch(() => undefined)
    },
  }
}

/** What a server answers may repeat the address: only its codes are passed on. */
function refusalOf(error: unknown): Refusal {
  const read = (name: string): unknown => (error instanceof Error ? Reflect.get(error, name) : undefined)
  const [code, command, responseCode, response] = ['code', 'command', 'responseCode', 'response'].map(read)
  return {
    code: typeof code === 'string' ? code : 'unknown',
    command: typeof command === 'string' ? command : '',
    responseCode: typeof responseCode === 'number' ? responseCode : undefined,
    enhancedCode: /^\d{3}[ -](\d\.\d{1,3}\.\d{1,3})\b/.exec(String(response))?.[1] ?? '',
  }
}
