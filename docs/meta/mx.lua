---@meta
-- The API of mxrun for LuaLS (point Lua.workspace.library at this folder), and the source of docs/api.md (`make docs`).
-- A section begins with a line `--- # Title`; a spec compares what stands here with what mxrun really has.

--- # Conventions
---
--- One global, `mx` (also `require "mx"`). Every waiting call parks the calling task while the loop goes on; the main chunk runs in a
--- task too. What the world does wrong comes back as `nil, err`; what the caller does wrong raises at the caller's line. Times are seconds,
--- as numbers or as text ("100ms", "5s", "2m"); sizes are bytes, as numbers or as text ("64KB", "1GB").
---
--- ```lua
--- local ok, err = mx.publish("", "nobody", "hello")
--- assert(not ok and err.code == "unroutable" and err.reply_code == 312 and not err.retryable)
--- print(err)
--- ```

---@alias mx.seconds number|string
---@alias mx.bytes number|string

--- What went wrong. It prints and concatenates as text.
---@class mx.Error
---@field code mx.Code
---@field message string
---@field op? string what was being done
---@field retryable boolean whether trying again may help
---@field cause? any the value that was raised, if it was not an error of mxrun
---@field reply_code? integer the broker's code (AMQP 0-9-1, 1.2 constants), if it gave one
---@field traceback? string

---@alias mx.Code
---| "timeout" no answer in time
---| "backpressure" too much is in flight
---| "unroutable" no queue is bound for the key
---| "nacked" the broker refused the message
---| "connection" the connection failed
---| "channel" the broker closed the channel
---| "access" the broker refused the user, the vhost or the permission
---| "config" a URL or an option cannot work
---| "validation" a value is outside of what AMQP or a limit allows
---| "serialization" a body or a table cannot be encoded or decoded
---| "memory" no memory left for it
---| "closed" closed before it was done
---| "interrupted" cancelled, or stopped by the turn limit
---| "internal" a handler raised, or a defect of mxrun

---@class mx
---@field null lightuserdata JSON null, AMQP void
---@field config table<string, string|number> what `--set K=V` gave
---@field state table kept when the script is loaded anew; plain data: a function in it keeps the old generation in memory
---@field worker { number: integer, count: integer } which process of `-w N` this is; 1 of 1 without
mx = {}

--- An error object, to return or to raise from a handler.
---@param code mx.Code
---@param message string
---@param fields? table retryable, cause, reply_code
---@return mx.Error
function mx.error(code, message, fields) end

--- # Connecting

---@class mx.ConnectOptions
---@field url? string amqp://user:password@host:port/vhost, or mem://NAME for the embedded broker
---@field urls? string[] several addresses of one cluster
---@field order? "random"|"listed" in which order the addresses are tried (random)
---@field password_env? string the environment's variable that holds the password; unlike one in a URL of the script it is in no core dump
---@field name? string shown as the connection's name in RabbitMQ ("mxrun")
---@field heartbeat? mx.seconds 10
---@field connect_timeout? mx.seconds for one address: name, TCP and handshake (10)
---@field rpc_timeout? mx.seconds for one answer of the broker (30)
---@field max_body? mx.bytes larger bodies are refused, both ways (16 MB)
---@field tls? mx.TlsOptions for amqps:// URLs
---@field reconnect? { base?: mx.seconds, max?: mx.seconds, jitter?: boolean } waits between attempts: 0.2 s to 30 s, with jitter
---@field pool? { min?: integer, max?: integer, idle?: mx.seconds } how many connections publishing and consuming have each: 1 to 8; one beyond min that nobody used for 300 s is closed
---@field channels? { max?: integer, borrow_timeout?: mx.seconds } on each connection (100); how long to wait for one when all of all are in use (5)

--- Paths are of PEM files. The broker's certificate and name are verified; a refusal says what is wrong and what to do. The files are
--- read at each new connection, and at SIGHUP; if they cannot be used then, what was read before is, with a warning in the log.
---@class mx.TlsOptions
---@field ca? string whom to trust (the system's CAs)
---@field cert? string the client certificate, with its chain
---@field key? string its key
---@field crl? string a revocation list of the CA
---@field server_name? string the broker's name in its certificate (the URL's host)
---@field min_version? "1.2"|"1.3"
---@field external? boolean log in by the client certificate (SASL EXTERNAL)
---@field verify? boolean false trusts whoever answers; it needs insecure = true as well
---@field insecure? boolean

--- Connections to one broker: publishing and consuming have their own, opened when first used. Each consumer and each publisher has a
--- channel, opened on the least used of them; when all channels are in use, one more connection is opened, up to pool.max. Exclusive
--- queues live on the first that consumes. It has the functions of `mx` that speak to a broker
--- as methods: topology, queue, exchange, bind, unbind, bind_exchange, purge, delete_queue, delete_exchange, queue_info, publish,
--- publish_async, consume, consume_batch, call, dlq.
---@class mx.Connection
local Connection = {}

--- Orderly: its handlers finish, confirms arrive, then it closes.
---@async
function Connection:close() end

--- What it has open, as mx.pool.stats has it of all connections together.
---@return mx.PoolStats
function Connection:stats() end

---@class mx.PoolStats
---@field connections { active: integer, idle: integer, total: integer, max: integer } active: with a channel in use; max: how many there may be
---@field channels { total: integer, borrowed: integer } how many the open connections may have, and how many are in use
---@field links mx.LinkStats[] each of them
---@field objects? table<string, { live: integer, free: integer, hit: number }> of mx.pool.stats(): messages, chunks, deliveries; hit: the share that was there when asked for

--- One connection of a pool.
---@class mx.LinkStats
---@field purpose "publish"|"consume"
---@field address string? where it leads, without the password
---@field state "open"|"connecting"|"lost"
---@field blocked boolean by the broker (connection.blocked)
---@field channels integer in use
---@field errors integer how often it was lost or could not be opened
---@field age mx.seconds since it was opened
---@field round_trip mx.seconds that the broker took for its latest answer; 0: it gave none yet

mx.pool = {}

--- Of all connections together.
---
--- ```lua
--- local s = mx.pool.stats()
--- print(("%d of %d channels are in use"):format(s.channels.borrowed, s.channels.total))
--- ```
---@return mx.PoolStats
function mx.pool.stats() end

--- Connects; parks until the broker is there, without limit. Only what waiting cannot mend comes back as an error (config); where the
--- broker refuses the user or the vhost it is asked again, but only twice a minute.
--- Optional: without it, or without a URL in it, the URL is that of `-u` or `MXRUN_URLS`, else `mem://` when a terminal is there to read
--- that; without one a missing URL is exit 2. A connection that drops later is made again for as long as it takes.
---
--- ```lua
--- local conn = assert(mx.connect { url = "mem://other", name = "orders" })
--- assert(conn:queue "inbox")
--- assert(conn:publish("", "inbox", "hello"))
--- conn:close()
--- ```
---@async
---@param options? mx.ConnectOptions
---@return mx.Connection? conn
---@return mx.Error? err
function mx.connect(options) end

---@alias mx.Event
---| "up" (conn) a connection is there
---| "down" (conn, err) a connection was lost; it is made again
---| "recovered" (conn) it is back
---| "blocked" (conn) the broker is short of memory or disk and takes no publishes
---| "unblocked" (conn)
---| "returned" (conn, err) a mandatory message reached no queue; err.receipt
---| "cancelled" (consumer, err) the broker ended a consumer, or takes it no more after a reconnect
---| "memory" (nothing raises it yet)
---| "reload" SIGHUP came or a file was changed, the files of TLS were read again, and a new generation of the script has started; those hear of it whom it replaces
---| "stop" the drain begins
---| "error" (err) a task failed that nobody waits for

--- Calls f, in a task of its own, each time the event happens.
---@param event mx.Event
---@param f fun(...: any)
function mx.on(event, f) end

--- Drains and exits with 0: consumers stop, handlers finish, confirms arrive. Returns at once.
function mx.stop() end

--- # Topology

---@class mx.QueueOptions
---@field type? "classic"|"quorum"|"stream"
---@field durable? boolean survives a restart of the broker (true)
---@field auto_delete? boolean deleted when its last consumer has left
---@field exclusive? boolean for this connection only
---@field ttl? mx.seconds messages older than this expire
---@field expires? mx.seconds the queue itself goes when it was unused for so long
---@field max_length? integer
---@field max_bytes? mx.bytes
---@field overflow? "drop-head"|"reject-publish"|"reject-publish-dlx"
---@field delivery_limit? integer quorum queues: redeliveries before a message is dropped or dead-lettered; nothing is said of it by itself, and then RabbitMQ 4 takes 20
---@field max_priority? integer
---@field single_active_consumer? boolean
---@field passive? boolean only look whether it is there
---@field dlq? boolean|string|{ exchange?: string, key?: string, wire?: boolean } where rejected messages go; true: QUEUE.dlq, of the same type; a quorum queue's has no delivery limit on RabbitMQ 4 either, unless it was there before
---@field bind? string[][] a list of { exchange, key, args }
---@field args? table<string, any> further x-… arguments, passed as they are

---@class mx.ExchangeOptions
---@field type? "direct"|"fanout"|"topic"|"headers"|string direct
---@field durable? boolean true
---@field auto_delete? boolean
---@field internal? boolean
---@field passive? boolean only look whether it is there
---@field alternate? string the exchange for what this one cannot route
---@field args? table<string, any>

--- Declares exchanges, queues and their bindings. Declaring again what is there is fine; what differs is an error that says which argument.
---
--- ```lua
--- assert(mx.topology {
---   exchanges = { app = "topic" },
---   queues = { orders = { dlq = true, bind = { { "app", "order.*" } } } },
--- })
--- ```
---@async
---@param t { exchanges?: table<string, string|mx.ExchangeOptions>, queues?: table<string, mx.QueueOptions>, bindings?: table[] } bindings: of { queue, exchange, key, args }
---@return true? ok
---@return mx.Error? err
function mx.topology(t) end

--- Declares a queue (queue.declare). The name "" makes an exclusive queue with a name that nobody else has (`mx.gen-…`) and that it
--- keeps when the connection is lost and made again.
---@async
---@param name string
---@param options? mx.QueueOptions
---@return string? name
---@return mx.Error? err
function mx.queue(name, options) end

--- Declares an exchange (exchange.declare).
---@async
---@param name string
---@param options? string|mx.ExchangeOptions
---@return string? name
---@return mx.Error? err
function mx.exchange(name, options) end

---@async
---@param queue string
---@param exchange string
---@param key? string
---@param args? table<string, any> for a headers exchange
---@return true? ok
---@return mx.Error? err
function mx.bind(queue, exchange, key, args) end

---@async
---@param queue string
---@param exchange string
---@param key? string
---@param args? table<string, any>
---@return true? ok
---@return mx.Error? err
function mx.unbind(queue, exchange, key, args) end

--- Messages of the exchange `from` go on to `to` (exchange.bind, an extension of RabbitMQ).
---@async
---@param to string
---@param from string
---@param key? string
---@param args? table<string, any>
---@return true? ok
---@return mx.Error? err
function mx.bind_exchange(to, from, key, args) end

--- Removes what is ready; unacknowledged deliveries stay.
---@async
---@param queue string
---@return integer? n how many
---@return mx.Error? err
function mx.purge(queue) end

--- Deleting what is missing succeeds, as on RabbitMQ.
---@async
---@param queue string
---@return true? ok
---@return mx.Error? err
function mx.delete_queue(queue) end

---@async
---@param name string
---@return true? ok
---@return mx.Error? err
function mx.delete_exchange(name) end

---@async
---@param queue string
---@return { messages: integer, consumers: integer }? info messages: ready ones
---@return mx.Error? err
function mx.queue_info(queue) end

--- # Publishing

---@class mx.PublishOptions
---@field headers? table<string, any> an AMQP table: at most 1 MiB, depth 32, 4096 entries
---@field id? string message-id; a missing one is a random prefix and a counter
---@field correlation_id? string
---@field reply_to? string
---@field content_type? string
---@field content_encoding? string
---@field type? string
---@field app_id? string
---@field user_id? string must be the connection's user
---@field timestamp? integer whole seconds since 1970
---@field priority? integer 0 to 255
---@field expiration? mx.seconds the message expires so long after it reached its queue
---@field persistent? boolean true
---@field mandatory? boolean a message that reaches no queue is returned, and fails as unroutable (true)
---@field timeout? mx.seconds for the confirm (30)

--- Publishes and waits for the broker's confirm. A table becomes JSON.
---@async
---@param exchange string "" is the default exchange: the key is the queue's name
---@param key string
---@param body string|table|userdata
---@param opts? mx.PublishOptions
---@return true? ok
---@return mx.Error? err
function mx.publish(exchange, key, body, opts) end

--- Publishes without waiting for the confirm; parks only while the window (max_in_flight) is full.
---
--- ```lua
--- assert(mx.queue "work")
--- local receipts = {}
--- for i = 1, 100 do receipts[i] = assert(mx.publish_async("", "work", { number = i })) end
--- assert(mx.wait_all(receipts, 5))
--- assert(receipts[1].state == "confirmed")
--- ```
---@async
---@param exchange string
---@param key string
---@param body string|table|userdata
---@param opts? mx.PublishOptions
---@return mx.Receipt? receipt
---@return mx.Error? err
function mx.publish_async(exchange, key, body, opts) end

--- What became of one publish; it ends in exactly one state. Over a lost connection it stays pending: the message is sent again, with
--- the same id and the header `x-mx-attempt`. "closed" is for what cannot be sent again: the exchange was missing or not allowed
--- (`err.reply_code` 404 or 403), or the publisher closed first.
---@class mx.Receipt
---@field state "pending"|"confirmed"|"nacked"|"returned"|"timeout"|"closed"
local Receipt = {}

---@async
---@param timeout? mx.seconds
---@return true? ok
---@return mx.Error? err
function Receipt:wait(timeout) end

---@async
---@param receipts mx.Receipt[]
---@param timeout? mx.seconds for all of them
---@return true? ok
---@return mx.Receipt[]? failed those that did not end as confirmed
function mx.wait_all(receipts, timeout) end

---@class mx.PublisherOptions
---@field exchange? string ""
---@field max_in_flight? integer how many publishes may be unconfirmed (10,000)
---@field on_full? "wait"|"error"|"drop" what a full window does to a publish (wait)
---@field timeout? mx.seconds for a confirm, and for room in the window (30)
---@field mandatory? boolean true
---@field persistent? boolean true
---@field confirm? boolean true; false: sent and forgotten
---@field batch? mx.BatchLimits keeps what is published until there is enough of it
---@field retry? boolean|{ attempts?: integer, base?: mx.seconds, max?: mx.seconds, factor?: number, jitter?: boolean } of a publish that was nacked

--- A channel of its own for publishing, with its own window and defaults; of another connection than the default one with `conn = c` in
--- the options. With `batch` what is published is kept, and written at once when its size, its bytes or its time is reached, its policy says so,
--- the window is full, the publisher closes or mxrun stops; receipts, time limits and what a lost connection means are as without.
---
--- ```lua
--- assert(mx.queue "rows")
--- local rows = mx.publisher { batch = { size = 50, timeout = 0.2 } }
--- local receipts = {}
--- for i = 1, 120 do receipts[i] = assert(rows:publish_async("rows", { row = i })) end   -- 50 and 50; 20 more after 0.2 s
--- assert(mx.wait_all(receipts, 5))
--- ```
---@class mx.Publisher
local Publisher = {}

---@param options? mx.PublisherOptions
---@return mx.Publisher
function mx.publisher(options) end

---@async
---@param key string
---@param body string|table|userdata
---@param opts? mx.PublishOptions
---@return true? ok
---@return mx.Error? err
function Publisher:publish(key, body, opts) end

---@async
---@param key string
---@param body string|table|userdata
---@param opts? mx.PublishOptions
---@return mx.Receipt? receipt
---@return mx.Error? err
function Publisher:publish_async(key, body, opts) end

--- Waits for its confirms, then closes its channel.
---@async
function Publisher:close() end

--- Asks and waits for the answer, over RabbitMQ's direct reply-to. Never sent twice.
---
--- ```lua
--- assert(mx.queue "double")
--- assert(mx.consume("double", function(msg) return msg:reply(tostring(msg.body * 2)) end))
--- local answer = assert(mx.call("", "double", "21", { timeout = 2 }))
--- assert(answer.body == "42")
--- ```
---@async
---@param exchange string
---@param key string
---@param body string|table|userdata
---@param opts? mx.PublishOptions timeout: for the answer (30)
---@return mx.Message? answer
---@return mx.Error? err
function mx.call(exchange, key, body, opts) end

--- # Consuming

---@class mx.ConsumeOptions
---@field prefetch? integer how many deliveries the broker sends ahead (256)
---@field concurrency? integer how many handlers may be at work; 1 keeps the queue's order (1)
---@field order_by? fun(msg: mx.Message): any deliveries of one key stay in order, different keys run side by side
---@field timeout? mx.seconds for a handler that waits (30)
---@field auto_ack? boolean the broker counts a delivery as done once it was sent
---@field manual? boolean the handler settles with msg:ack() and its like
---@field exclusive? boolean no other consumer may have this queue
---@field priority? integer
---@field args? table<string, any>
---@field retry? mx.RetryOptions

---@class mx.RetryOptions
---@field max? integer how many more runs a failed delivery gets (5)
---@field base? mx.seconds the first delay (1)
---@field factor? number 2
---@field max_delay? mx.seconds 60
---@field jitter? boolean true
---@field delay? fun(n: integer, msg: mx.Message, err: any): number? the delay before run n + 1; nil: no more

---@alias mx.Decision nil|boolean|"reject"|"retry"|"requeue"

--- Calls handler(msg) for each delivery. What the handler does decides what happens to it:
---
--- | the handler | means |
--- |---|---|
--- | returns nothing, nil or true | done: acknowledged |
--- | `return "reject" [, reason]` | a bad message: to the dead-letter queue with the reason, else dropped by the broker's rules |
--- | `return "retry" [, seconds]` | later, through a delay queue |
--- | `return "requeue"` | not now: back into its queue |
--- | `return nil, err`, `return false [, err]`, `error(x)`, the time limit | failed: retried by the policy, then rejected |
--- | returns anything else | a mistake in the handler: failed |
---
--- With `manual = true` nothing, nil and true settle nothing: the delivery waits for msg:ack(), :reject(), :retry() or :requeue(), also long
--- after the handler has returned. All else means what the table says, unless one of these has settled the delivery already: then it counts
--- for nothing.
---
--- ```lua
--- assert(mx.topology { queues = { orders = { dlq = true } } })
--- assert(mx.consume("orders", { concurrency = 8, retry = { max = 3 } }, function(msg)
---   local order = msg.data
---   if not order.id then return "reject", "no id" end
---   print("order " .. order.id)
--- end))
--- assert(mx.publish("", "orders", { id = 7 }))
--- ```
--- A consumer that the broker ended (its queue was deleted, its channel closed) says so (event "cancelled") and subscribes
--- again; a queue that the script declared is declared again first. One whose queue the script itself deleted is over.
---
--- Under `mxrun -w` a message that kills its worker (a crash, the end of a worker that stands still or that the kernel takes for lack of
--- memory, os.exit in the handler) is not run for ever: what was redelivered and has killed three workers while its handler
--- executed is rejected with the reason "crashed its worker 3 times", without being run. That makes four runs, since the first delivery is not
--- counted. Messages whose handlers wait meanwhile are not counted; so what a handler leaves behind and crashes later, a thread
--- of an FFI library say, is not traced to its message. A message is known by its queue and id, without an id by its key and body, as long as
--- the supervisor lives.
---@async
---@param queue string
---@param options mx.ConsumeOptions
---@param handler fun(msg: mx.Message): mx.Decision, any
---@return mx.Consumer? consumer
---@return mx.Error? err
---@overload fun(queue: string, handler: fun(msg: mx.Message): mx.Decision, any): mx.Consumer?, mx.Error?
function mx.consume(queue, options, handler) end

--- # Batches

--- How much is enough for a batch. C enforces size, bytes and timeout whatever the policy says.
---@class mx.BatchLimits
---@field size? integer how many messages it may have (100)
---@field bytes? integer|string of their bodies; one that is larger goes alone ("1MB")
---@field timeout? mx.seconds that its first message may wait (0.1)
---@field policy? fun(batch: mx.BatchLook): boolean|number|nil asked after each message: true, the batch is enough; false or nothing, wait; a number, ask again in so many seconds, 0 or less is enough

--- What a policy sees. It must not wait; when it raises, or answers nonsense, the limits go on without it.
---@class mx.BatchLook
---@field count integer
---@field bytes integer of the bodies
---@field age mx.seconds since the first came; the clock is read once in 64 messages
---@field idle mx.seconds since the latest came
---@field rate number deliveries a second of the consumer lately; publishes of the publisher
---@field depth integer deliveries that are here already, behind it; of a publisher 0
---@field memory number share of the memory limit that is in use; 0 without a limit
---@field in_flight integer deliveries that handlers hold or that are not settled yet; publishes that are not confirmed

---@class mx.ConsumeBatchOptions
---@field size? integer how many messages a batch may have, at most prefetch (100)
---@field bytes? integer|string of their bodies; one that is larger goes alone ("1MB")
---@field timeout? mx.seconds that its first message may wait (0.1)
---@field policy? fun(batch: mx.BatchLook): boolean|number|nil see mx.BatchLimits
---@field group_by? fun(msg: mx.Message): any one batch a group, at most 1,000 at once, then the oldest is handed over; nil is a group, too
---@field on_error? "isolate"|"retry"|"reject" what becomes of a batch that failed (isolate)
---@field prefetch? integer how many deliveries the broker sends ahead (256, or twice the size)
---@field concurrency? integer how many handlers may be at work; 1 keeps the queue's order (1)
---@field handler_timeout? mx.seconds for a handler that waits (30)
---@field auto_ack? boolean
---@field exclusive? boolean
---@field priority? integer
---@field args? table<string, any>
---@field retry? mx.RetryOptions of each message that failed

--- An array of messages, in the queue's order.
---@class mx.Batch: mx.Message[]
---@field group any what group_by said of them
local Batch = {}

---@return string[] bodies
function Batch:bodies() end

--- Message i failed, the others did not: the retry policy, then as reject. Counts whatever the handler returns for the rest.
---@param i integer
---@param why? any
---@return true? ok
---@return mx.Error? err it was settled before: the time limit, a lost connection
function Batch:fail(i, why) end

--- Message i is bad: to the dead letters with the reason.
---@param i integer
---@param why? any
---@return true? ok
---@return mx.Error? err
function Batch:reject(i, why) end

--- Message i is for later, through a delay queue.
---@param i integer
---@param seconds? mx.seconds
---@return true? ok
---@return mx.Error? err
function Batch:retry(i, seconds) end

--- Message i goes back into its queue.
---@param i integer
---@return true? ok
---@return mx.Error? err
function Batch:requeue(i) end

--- Calls handler(batch) with many deliveries at once. What the handler does decides for all of them, as in mx.consume, but for those that it
--- told apart. One batch that is done costs one ack.
---
--- A batch is handed over when a limit or the policy says so, when the broker sends no more before something is settled, and when the
--- consumer stops, pauses or mxrun drains. What was gathered when the connection is lost comes again.
---
--- A batch that fails with `on_error = "isolate"` is run again by halves until single messages fail, so the handler has to be atomic: all of a
--- batch or nothing of it. One bad message of 500 costs 19 runs. Where some part was good, a message that failed alone is rejected with its
--- reason, unless its error is retryable; where none was, it is not the messages (a database is down, say), and each follows the retry policy. With
--- "retry" each message of a failed batch follows the retry policy, with "reject" each is rejected.
---
--- Under `mxrun -w` messages of a batch that was at work when its worker died run alone, until the one that kills is found.
---
--- ```lua
--- assert(mx.topology { queues = { events = { dlq = true } } })
--- assert(mx.consume_batch("events", {
---   size = 500, bytes = "1MB", timeout = 0.1,
---   policy = function(b)
---     if b.memory > 0.8 then return b.count >= 50 end
---     return b.depth == 0 and b.age > 0.02 or 0.02
---   end,
--- }, function(batch)
---   for i, m in ipairs(batch) do
---     if not m:json() then batch:reject(i, "no JSON") end
---   end
---   print(#batch .. " rows, " .. #table.concat(batch:bodies()) .. " bytes")
--- end))
--- assert(mx.publish("", "events", { row = 1 }))
--- ```
---@async
---@param queue string
---@param options mx.ConsumeBatchOptions
---@param handler fun(batch: mx.Batch): mx.Decision, any
---@return mx.Consumer? consumer
---@return mx.Error? err
---@overload fun(queue: string, handler: fun(batch: mx.Batch): mx.Decision, any): mx.Consumer?, mx.Error?
function mx.consume_batch(queue, options, handler) end

--- # Consumers and messages

---@class mx.Consumer
local Consumer = {}

--- Stops taking deliveries; what was not handed to a handler goes back to the queue.
---@async
---@return true? ok
---@return mx.Error? err
function Consumer:pause() end

---@async
---@return true? ok
---@return mx.Error? err
function Consumer:resume() end

--- Cancels, waits for its handlers, sends what they decided, gives the rest back.
---@async
---@param timeout? mx.seconds
---@return true? ok
---@return mx.Error? err
function Consumer:stop(timeout) end

---@return { count: integer, in_flight: integer, acked: integer, rejected: integer, retried: integer, requeued: integer, failed: integer, stuck: integer, batches: integer? } stats batches: handed over to handlers, of mx.consume_batch; stuck: given back since neither a delay queue nor the dead letters took them
function Consumer:stats() end

--- One delivery. It is the handler's until the handler returns; afterwards, or once it is settled, reading it raises "already settled".
---@class mx.Message
---@field body string
---@field data any the body decoded when it is JSON, else the body; what cannot be decoded raises
---@field size integer of the body, in bytes
---@field exchange string where it was published, also for a retried one
---@field key string
---@field queue string
---@field headers table<string, any>
---@field id? string
---@field attempt integer 1 for the first run
---@field redelivered boolean
---@field age? number seconds since its timestamp
---@field priority? integer
---@field correlation_id? string
---@field reply_to? string
---@field timestamp? integer
---@field expiration? number seconds
---@field persistent boolean
---@field content_type? string
---@field content_encoding? string
---@field type? string
---@field app_id? string
---@field user_id? string
---@field delivery_tag integer
---@field consumer_tag string
local Message = {}

--- The body as JSON, without raising.
---@return any value
---@return mx.Error? err
function Message:json() end

--- Publishes to msg.reply_to with its correlation id.
---@async
---@param body string|table|userdata
---@param opts? mx.PublishOptions
---@return true? ok
---@return mx.Error? err
function Message:reply(body, opts) end

--- The message outlives its handler and its delivery: it can be read as long as the script has it. Not for one that is settled already.
---@return mx.Message
function Message:keep() end

--- With manual = true: done. Settling a message a second time raises; true, or nil, err ("closed") when the runtime settled it first: its time
--- limit, a stop, a lost connection.
function Message:ack() end

---@param why? string
function Message:reject(why) end

function Message:requeue() end

---@param seconds? mx.seconds
function Message:retry(seconds) end

--- The dead-letter queue of a queue.
---
--- ```lua
--- assert(mx.topology { queues = { orders = { dlq = true } } })
--- assert(mx.publish("", "orders.dlq", "a bad one", { headers = { ["x-mx-error"] = "no id" } }))
--- local d = mx.dlq "orders"
--- print(d:count())
--- for m in d:peek(20) do print(m.headers["x-mx-error"], m.body) end
--- assert(d:purge() == 1)
--- ```
---@class mx.DeadLetters
local DeadLetters = {}

---@param queue string the queue whose dead letters are meant
---@return mx.DeadLetters
function mx.dlq(queue) end

--- How many are ready; not those that somebody else has taken and not settled.
---@async
---@return integer? n
---@return mx.Error? err
function DeadLetters:count() end

--- Iterates over up to n messages and leaves them where they are: they are taken, and given back before this returns. A classic queue
--- keeps their order; a quorum queue counts it as a delivery of theirs.
---@async
---@param n? integer 20
---@return fun(): mx.Message? each
function DeadLetters:peek(n) end

--- Publishes messages again to where they came from, confirmed before they leave the dead-letter queue. edit(m) may
--- change m.body (text, or a table for JSON), m.headers, m.exchange and m.key, or return another body.
---@async
---@param options? { where?: fun(m: mx.Message): boolean, edit?: fun(m: table), rate?: number, limit?: integer }
---@return integer? n
---@return mx.Error? err
function DeadLetters:replay(options) end

---@async
---@return integer? n
---@return mx.Error? err
function DeadLetters:purge() end

--- # Values of AMQP tables

--- Headers and arguments are Lua tables. A number is a Lua number (int64 cdata beyond 2^53) whatever its width was, and one that was read
--- goes out again as wide as it came. What Lua cannot tell apart is made here; what was read as a timestamp, a decimal or bytes is such a
--- value too: { type =, value = }, which prints as text.
---
--- ```lua
--- assert(mx.queue "typed")
--- assert(mx.publish("", "typed", "", { headers = { at = mx.amqp.timestamp(1700000000), price = mx.amqp.decimal "19.90" } }))
--- assert(mx.consume("typed", function(msg)
---   assert(tostring(msg.headers.price) == "19.90" and msg.headers.at.value == 1700000000)
--- end))
--- ```
---@class mx.Amqp
---@field null lightuserdata void, as mx.null
mx.amqp = {}

---@class mx.Typed
---@field type string
---@field value any
---@field scale? integer of a decimal: value * 10^-scale

---@param n integer
---@return mx.Typed
function mx.amqp.int8(n) end

---@param n integer
---@return mx.Typed
function mx.amqp.uint8(n) end

---@param n integer
---@return mx.Typed
function mx.amqp.int16(n) end

---@param n integer
---@return mx.Typed
function mx.amqp.uint16(n) end

---@param n integer
---@return mx.Typed
function mx.amqp.int32(n) end

---@param n integer
---@return mx.Typed
function mx.amqp.uint32(n) end

---@param n integer
---@return ffi.cdata* int64
function mx.amqp.int64(n) end

---@param x number
---@return mx.Typed
function mx.amqp.float32(x) end

--- A double, also when it is integral.
---@param x number
---@return mx.Typed
function mx.amqp.double(x) end

---@param seconds integer since 1970
---@return mx.Typed
function mx.amqp.timestamp(seconds) end

--- decimal "-1.50", or its digits and how many of them stand behind the point: decimal(-150, 2).
---@param value string|integer
---@param scale? integer
---@return mx.Typed
function mx.amqp.decimal(value, scale) end

--- A byte array rather than a string (the letter x).
---@param s string
---@return mx.Typed
function mx.amqp.bytes(s) end

---@return lightuserdata
function mx.amqp.void() end

--- # Tasks and timers

--- Monotonic time in seconds, never cached.
---@return number
function mx.now() end

---@async
---@param seconds mx.seconds
function mx.sleep(seconds) end

--- Runs f(...) beside the caller. A failure that nobody waits for is logged, and `mx.on("error")` is told.
---
--- ```lua
--- local task = mx.spawn(function(a, b) mx.sleep(0.01) return a + b end, 1, 2)
--- local ok, sum = task:wait(1)
--- assert(ok and sum == 3)
--- ```
---@param f fun(...: any): ...
---@return mx.Task
function mx.spawn(f, ...) end

---@class mx.Task
local Task = {}

--- true and its results; nil, err when it failed or the timeout came first.
---@async
---@param timeout? mx.seconds
---@return true? ok
---@return any ...
function Task:wait(timeout) end

--- Its wait, or its next one, raises "interrupted".
function Task:cancel() end

--- Runs f every so many seconds; one that is still at work is not started a second time.
---@param seconds mx.seconds
---@param f fun()
---@return mx.Timer
function mx.every(seconds, f) end

---@param seconds mx.seconds
---@param f fun()
---@return mx.Timer
function mx.after(seconds, f) end

---@class mx.Timer
local Timer = {}

function Timer:cancel() end

--- A queue between tasks, of so many values.
---@param size? integer 0: put waits for a get
---@return mx.Channel
function mx.chan(size) end

---@class mx.Channel
local Channel = {}

---@async
---@param value any
---@param timeout? mx.seconds
---@return true? ok
---@return mx.Error? err
function Channel:put(value, timeout) end

---@async
---@param timeout? mx.seconds
---@return any value
---@return mx.Error? err
function Channel:get(timeout) end

---@param count integer
---@return mx.Semaphore
function mx.semaphore(count) end

---@class mx.Semaphore
local Semaphore = {}

---@async
---@param timeout? mx.seconds
---@return true? ok
---@return mx.Error? err
function Semaphore:acquire(timeout) end

function Semaphore:release() end

--- # Sockets

---@class mx.TcpOptions
---@field timeout? mx.seconds for connecting, with TLS's handshake, and then for each operation (30)
---@field tls? boolean|mx.TlsOptions true: the system's CAs, the host's name; all of mx.connect's but external, which is the broker's

--- A connected socket, for HTTP or a database; only its task waits. As OpenResty's cosockets, but errors are mxrun's, with the codes
--- "timeout", "connection" (it failed) and "closed" (by the other side in order, or by close), and times are seconds. The host
--- "unix:/path" is a local socket and needs no port.
---
--- ```lua
--- local function get(host, port, path)
---   local s, err = mx.tcp(host, port, { timeout = 5 })
---   if not s then return nil, err end
---   s:send { "GET ", path, " HTTP/1.0\r\nHost: ", host, "\r\n\r\n" }
---   local status, head, body = s:receive(), s:receiveuntil "\r\n\r\n"(), s:receive "*a"
---   s:close()
---   return status, head, body
--- end
--- local status, err = get("127.0.0.1", 1, "/")
--- assert(not status and err.code == "connection")
--- print(err)                             -- 127.0.0.1:1: connection refused
--- ```
---
--- `require "mx.ngx"` makes a global `ngx` on top of it, with which clients written in Lua for OpenResty run: `ngx.socket.tcp` (with kept
--- connections and TLS), `ngx.re`, `ngx.timer`, `ngx.thread`, `ngx.log`, texts and times.
---
--- A socket that nobody refers to any more is closed when the collector finds it, and all are at the end of the process, which they
--- do not hold up. One task may receive while another sends; two that do the same at once raise.
---@async
---@param host string
---@param port? integer
---@param options? mx.TcpOptions
---@return mx.Socket? sock
---@return mx.Error? err
function mx.tcp(host, port, options) end

---@class mx.Socket
local Socket = {}

--- Parks until the kernel has taken all of it. A send that was not done in time, or was cancelled, closes the socket.
---@async
---@param data string|string[]
---@return integer? bytes
---@return mx.Error? err
function Socket:send(data) end

--- So many bytes, at most 64 MiB; a line without its end, "\n" or "\r\n" ("*l", the default); all until the other side closes ("*a").
--- What came before it failed is the third result. At most 64 KiB are read ahead.
---@async
---@param what? integer|"*l"|"*a"
---@return string? data
---@return mx.Error? err
---@return string? partial
function Socket:receive(what) end

--- A function that receives up to a text, as receive does; the text itself is dropped.
---@param text string
---@return fun(): string?, mx.Error?, string? receive
function Socket:receiveuntil(text) end

--- Encrypts what is open, where a protocol asks for that (STARTTLS): what the other side said before has to be received first. When it
--- fails, the socket is closed.
---@async
---@param tls? mx.TlsOptions as of mx.tcp
---@return true? ok
---@return mx.Error? err
function Socket:starttls(tls) end

--- For each later operation.
---@param seconds mx.seconds
function Socket:settimeout(seconds) end

--- What was sent still arrives, if the other side takes it within 2 s; who waits for the socket is told "closed".
---@return true? ok
---@return mx.Error? err closed already
function Socket:close() end

--- The same as close: there is no pool.
---@return true? ok
---@return mx.Error? err
function Socket:setkeepalive() end

---@return integer count 0
function Socket:getreusedtimes() end

--- # Metrics, log, stats

--- Made again under the same name it is the same one; of another kind or with other labels that raises. Names that begin with mxrun_ or
--- messaging_ are mxrun's own. A metric has at most 1000 series (combinations of values of its labels); updates beyond them are counted
--- in `mxrun_series_dropped_total` and forgotten. An update allocates nothing.
---@param name string
---@param help? string
---@param labels? string[]
---@return mx.Counter
function mx.counter(name, help, labels) end

---@class mx.Counter
local Counter = {}

--- Adds n; a value for each label follows, in their order. nil is an empty one.
---@param n? number 1
---@param ... string|number|nil
function Counter:inc(n, ...) end

---@param ... string|number|nil
---@return number
function Counter:get(...) end

--- A number that goes up and down; a function instead of the help or the labels is asked for it whenever /metrics is, and must not wait.
--- With `-w` it is asked once a second, and /metrics has the sum over all workers.
---
--- ```lua
--- local waiting = {}
--- mx.gauge("orders_waiting", "orders not paid yet", function() return #waiting end)
--- mx.gauge("oven_celsius", "temperature", { "oven" }):set(220, "left")
--- ```
---@param name string
---@param help? string|fun(): number
---@param labels? string[]|fun(): number
---@return mx.Gauge
function mx.gauge(name, help, labels) end

---@class mx.Gauge
local Gauge = {}

---@param value number
---@param ... string|number|nil
function Gauge:set(value, ...) end

---@param ... string|number|nil
---@return number?
function Gauge:get(...) end

--- An HDR histogram of all samples: 1 µs to 1 h, three significant digits.
---@param name string
---@param help? string
---@param labels? string[]
---@return mx.Histogram
function mx.histogram(name, help, labels) end

---@class mx.Histogram
local Histogram = {}

---@param seconds number
---@param ... string|number|nil
function Histogram:observe(seconds, ...) end

--- Runs f(...), records how long it took, returns what it returned. For a histogram without labels.
---@param f fun(...: any): ...
---@return any ...
function Histogram:time(f, ...) end

--- Of all samples.
---@param percent number 0 to 100
---@param ... string|number|nil
---@return number seconds
function Histogram:p(percent, ...) end

--- Of the samples of the last 10 to 20 s.
---@param percent number 0 to 100
---@param ... string|number|nil
---@return number seconds
function Histogram:recent(percent, ...) end

---@param ... string|number|nil
---@return number
function Histogram:count(...) end

---@class mx.Log
---@field configure fun(options: { format?: "text"|"json", level?: "debug"|"info"|"warn"|"error" }) as --log and --log-level
---@field debug fun(text: string|mx.Error, fields?: table)
---@field info fun(text: string|mx.Error, fields?: table)
---@field warn fun(text: string|mx.Error, fields?: table)
---@field error fun(text: string|mx.Error, fields?: table)

--- `mx.log.info("order done", { id = 7 })`: logfmt, or JSON with `--log json`, on stderr. In a handler queue, key, tag and, from the second on,
--- attempt are added. At most 1,000 lines of the same text are written a second, then it says how many were left out. Nothing ever waits
--- for stderr: beyond 256 KiB that nobody reads, lines are dropped and counted.
---@type mx.Log
mx.log = {}

--- # Traces

--- Calls f(...) in a span of that name, below the one of the handler that it runs in; returns what f returned, and what f raises goes
--- on.
---
--- Traces are on when the environment asks for them, as OpenTelemetry's specification names that: `OTEL_EXPORTER_OTLP_ENDPOINT` is where
--- spans go (OTLP/HTTP in JSON, over libcurl), `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_TRACES_SAMPLER` and
--- `OTEL_TRACES_SAMPLER_ARG`, `OTEL_EXPORTER_OTLP_HEADERS`, `_TIMEOUT` and `_CERTIFICATE`, `OTEL_BSP_SCHEDULE_DELAY`, `_MAX_QUEUE_SIZE`
--- and `_MAX_EXPORT_BATCH_SIZE`, `OTEL_SDK_DISABLED`. Each handler and each publish is a span then, and what a handler publishes carries the
--- trace on, as `traceparent`, `tracestate` and `baggage` in the headers. With `OTEL_PROPAGATORS=tracecontext` and no endpoint it is only
--- carried. When they are off, this is f(...) and nothing else.
---
--- ```lua
--- assert(mx.queue "orders")
--- assert(mx.consume("orders", function(msg)
---   local price = mx.trace("look up the price", function() mx.sleep(0.01) return 7 end)
---   assert(price == 7)
--- end))
--- assert(mx.publish("", "orders", { id = 7 }))
--- ```
---@param name string
---@param f fun(...: any): ...
---@param ... any
---@return ... what f returned
function mx.trace(name, f, ...) end

--- # Memory

--- Who holds which bytes, and what is done as the limit comes near. Everything counts against it that Lua, messages, confirms, buffers and
--- the broker behind `mem://` hold; a handler that goes beyond it ends with an error of code "memory", as one that fails.
mx.memory = {}

--- ```lua
--- mx.memory.limit "512MB"
--- mx.memory.watch(0.8, function(m) mx.log.warn("memory", { used = m.used, lua = m.lua }) end)
--- ```
---@param size? mx.bytes 0: none; what `--memory-limit` says stays
---@return number bytes the limit there is now
function mx.memory.limit(size) end

---@param share number of the limit at which a full collection is made between messages (0.8)
function mx.memory.collect_at(share) end

--- Calls f once when the share of the limit is reached or when the function answers true, and again after that was over.
---@param at number|fun(m: mx.MemoryStats): boolean?
---@param f fun(m: mx.MemoryStats)
---@return { cancel: fun() } watch
function mx.memory.watch(at, f) end

---@alias mx.MemoryStep
---| "collect" a full collection
---| "shrink_pools" what is kept for the next message goes back to the system
---| "lower_prefetch" consumers subscribe again, with a quarter of their prefetch
---| "pause_consumers" consumers take nothing
---| "refuse_publish" each publish fails with code "memory"

--- What is done at which share of the limit; each is logged, counted, and taken back 0.05 below it. The two about consumers leave those of
--- `mem://` alone: what lies in its queues is memory of this process already.
---
--- ```lua
--- mx.memory.ladder { [0.8] = "collect", [0.82] = "shrink_pools", [0.85] = "lower_prefetch", [0.9] = "pause_consumers",
---                    [0.95] = "refuse_publish" }                    -- what there is without it
--- ```
---@param steps table<number, mx.MemoryStep>
function mx.memory.ladder(steps) end

--- In bytes, where nothing else is said.
---@class mx.MemoryStats
---@field lua number the heap of Lua
---@field lua_peak number
---@field objects integer blocks in it
---@field messages number deliveries that are not settled, and what lies in queues of `mem://`
---@field unacked number what deliveries that are not settled hold of it, or in the buffer they were read into
---@field unconfirmed number what goes out, until it is confirmed
---@field buffers number what sockets read into
---@field deliveries number room for deliveries: prefetch
---@field receipts number room for receipts: max_in_flight
---@field broker number what queues of `mem://` are made of
---@field tls number
---@field pools number kept for the next message; nothing once none was asked for within 10 s
---@field other number in use by anything else
---@field total number all in use
---@field free number kept by malloc
---@field retained number resident and in use by nobody: what malloc and Lua's allocator keep of a peak, compiled code, stacks
---@field rss number resident, of the process
---@field machine number what the machine has, or its cgroup may have
---@field limit number 0: none
---@field used number share of the limit
---@field coroutines integer tasks, and handlers that wait
---@field gc { cycles: integer, pause_total: mx.seconds, pause_p50: mx.seconds, pause_p99: mx.seconds, pause_max: mx.seconds } the collector's steps between messages
---@field ladder table<mx.MemoryStep, { at: number, active: boolean, count: integer }>

---@return mx.MemoryStats
function mx.memory.stats() end

---@class mx.MemoryLine
---@field file string
---@field line integer in compiled code it may be the one behind
---@field func string the function it is in
---@field bytes number
---@field objects number

---@class mx.Snapshot
---@field lines mx.MemoryLine[] what each holds, those that hold most first
---@field memory mx.MemoryStats at that moment
local Snapshot = {}

--- What the lines of the script hold, once all garbage is gone. The heap is sampled, a block for about each 512 KiB: what holds less may be missing, and
--- the figures are estimates. Sampling begins with the first snapshot and goes on; what was allocated before has no line.
--- `mx.profile.start { "alloc", every_bytes = "16KB" }` before it samples more. `print(snapshot)` shows the first ten.
---
--- ```lua
--- local cache, before = {}, mx.memory.snapshot()
--- for i = 1, 100 do cache[i] = ("x"):rep(1e5) .. i end
--- print(before:diff(mx.memory.snapshot()))
--- ```
---@return mx.Snapshot snapshot
function mx.memory.snapshot() end

--- What grew from this one to the later one: a list, what grew most first, and what shrank last, bytes and objects below 0. `owners` says the
--- same of lua, messages, buffers and whatever else mx.memory.stats() names. `print(a:diff(b))` shows the first ten.
---@param later mx.Snapshot
---@return mx.MemoryLine[]|{ owners: table<string, number>, seconds: mx.seconds } list
function Snapshot:diff(later) end

--- The lines that hold most now, as in a snapshot.
---@param n? integer 10
---@return mx.MemoryLine[] list
function mx.memory.top(n) end

---@class mx.WhoOptions
---@field seconds? mx.seconds 1; of work
---@field objects? integer 1,000,000; to be looked at, some 50 bytes each

--- Who holds an object, table, function, text or whatever: the shortest way to it from the script's globals, package.loaded, mx.state, and the stacks
--- of tasks, handlers and coroutines that wait; else from what mxrun and the registry hold. Through upvalues, metatables and environments,
--- not through weak tables. The loop goes on meanwhile. `<key>` is a key of the table, `<metatable>` its metatable. What only the caller has at hand
--- is nobody's: nil, as when nothing was found; nil and an error when the search was given up.
---
--- ```lua
--- mx.state.cache = { k = { {}, {}, {} } }
--- print(mx.memory.who(mx.state.cache.k[3]))         -- mx.state.cache.k[3]; else: upvalue seen of handler (orders.lua:12)
---                                                   -- local t in task sleeping at orders.lua:30
--- ```
---@async
---@param x any
---@param options? mx.WhoOptions
---@return string? path
---@return mx.Error? err
function mx.memory.who(x, options) end

--- Figures of the process: publish, consume by queue, errors, memory, gc, pool, loop, tasks, uptime. Latencies are percentiles of all
--- samples, in seconds: of a queue `handler`, and `wait`, from taking a delivery in to the start of its handler. `recent` has those of the
--- last 10 to 20 s, and so has `loop.lag_p99`.
---@return table
function mx.stats() end

--- # Profiles

--- Where time goes and what is allocated, by line of the script, as files of pprof: `mxrun profile top FILE` and `go tool pprof FILE` read them.
--- cpu: 97 samples a second of processor time. heap, alloc: a block for about each 512 KiB, with what was allocated and what is held. wait: every
--- wait. When it costs more than 2 % of the time, samples become half as many. All samples of handlers have the labels queue and handler, with `-w`
--- worker. `--profile cpu,heap,wait` does it for a whole run, `--http` serves /debug/pprof/.
mx.profile = {}

--- Waits so long, then writes what took processor time meanwhile, in all tasks. The path is tried first.
---
--- ```lua
--- assert(mx.profile.cpu(0.2, os.tmpname()))
--- assert(mx.profile.heap(os.tmpname()))
--- ```
---@async
---@param seconds mx.seconds
---@param path string
---@return true? ok
---@return mx.Error? err what could not be written
function mx.profile.cpu(seconds, path) end

--- Writes what was allocated since sampling of the heap began, with the first call at the latest, and what of it is held.
---@param path string
---@return true? ok
---@return mx.Error? err
function mx.profile.heap(path) end

---@class mx.ProfileOptions
---@field hz? number 97; of cpu
---@field every_bytes? mx.bytes 512KB; of alloc, which heap is the same as; who asks first decides

--- Begins a profile of several things, which mx.profile.stop ends. There is one at a time; others may be taken meanwhile by other ways.
---
--- ```lua
--- mx.profile.start { "cpu", "alloc", "wait", hz = 200 }
--- mx.sleep(0.1)
--- assert(mx.profile.stop(os.tmpname()))
--- ```
---@param options? ("cpu"|"alloc"|"heap"|"wait")[]|mx.ProfileOptions which, cpu, and how often
function mx.profile.start(options) end

--- Writes what was since mx.profile.start, all into one file, and ends it. What cannot be written goes on, to be stopped with another path.
---@param path string
---@return true? ok
---@return mx.Error? err
function mx.profile.stop(path) end

--- Calls f(...): what it does, and what is begun in it, has these labels beside those that hold already. Returns, and raises, what f does.
---
--- ```lua
--- local total = mx.profile.label({ tenant = "acme" }, function(a, b) return a + b end, 1, 2)
--- ```
---@generic T
---@param labels table<string, string|number|boolean>
---@param f fun(...): T
---@param ... any
---@return T ...
function mx.profile.label(labels, f, ...) end

---@class mx.ContinuousOptions
---@field every? mx.seconds 300
---@field duration? mx.seconds 10; below every
---@field dir? string "profiles"; is made
---@field keep? integer 288; files of each kind, the oldest of those written here go
---@field profiles? ("cpu"|"heap"|"wait")[] cpu and heap
---@field hz? number 97

--- Writes profiles again and again, as DIR/cpu-20260131-235959-PID.pb.gz. What cannot be written is logged.
---
--- ```lua
--- local profiles = mx.profile.continuous { every = 300, duration = 10, dir = os.tmpname() .. "-profiles", keep = 288 }
--- profiles:cancel()
--- ```
---@param options? mx.ContinuousOptions
---@return mx.Timer timer
function mx.profile.continuous(options) end

--- # Health

---@alias mx.HealthCheck fun(stats: table): ("degraded"|"unhealthy"|boolean)?, string?, table? nothing or true: healthy; false, or an error: unhealthy; then a message, and details for the report

---@class mx.HealthOptions
---@field every? mx.seconds 5; what comes with mxrun 1
---@field timeout? mx.seconds 1; a check that runs longer has failed
---@field fail_after? integer 3; so many results in a row make it worse; what comes with mxrun 1
---@field recover_after? integer 2; and so many better

--- A check that runs from now on; one of the same name takes its place. It gets what mx.stats() answers, and returns nothing or true when
--- all is well; false, "degraded" or "unhealthy", with a message, when not. An error, and running past its timeout, is unhealthy. The
--- report is what `--http` serves as /health, with `-w` that of each worker.
---
--- ```lua
--- mx.health("lag", { every = 5, fail_after = 3 }, function(s)
---   if s.loop.lag_p99 > 0.1 then return "degraded", "loop lag" end
--- end)
--- mx.health.memory(0.85)
--- mx.health.tasks(function(n, s) return s.uptime < 60 and 5000 or 1000 end)
--- ```
---@param name string
---@param options? mx.HealthOptions
---@param f mx.HealthCheck
function mx.health(name, options, f) end

--- Up to 1 the share of the memory limit, without one of what the machine or its cgroup has; above, or as text, bytes of resident memory. From 80 % of the limit
--- on it is degraded, and so are tasks and loop. A function gets `mx.stats().memory` and answers a limit, or what a check answers.
---@param limit number|string|fun(memory: table, stats: table): any
---@param options? mx.HealthOptions
function mx.health.memory(limit, options) end

--- How many tasks there may be.
---@param limit number|fun(tasks: integer, stats: table): any
---@param options? mx.HealthOptions
function mx.health.tasks(limit, options) end

--- How long a turn of the loop may take: the 99th percentile of the last 10 to 20 s.
---@param limit mx.seconds|fun(seconds: number, stats: table): any
---@param options? mx.HealthOptions
function mx.health.loop(limit, options) end

--- How many connections have to be open; what publishes and what consumes are two.
---@param limit { min: integer }|integer|fun(open: integer, stats: table): any
---@param options? mx.HealthOptions
function mx.health.connections(limit, options) end

--- Unhealthy when messages wait in the queue, or there is no connection to know by, and none was handled for so many seconds.
---@param queue string
---@param limit mx.seconds|fun(seconds: number, stats: table): any
---@param options? mx.HealthOptions every: a fifth of the limit, 0.1 to 5 s
function mx.health.progress(queue, limit, options) end

--- `status` is the worst of the checks: "healthy", "degraded", "unhealthy"; a check that has not said anything yet is "unknown".
---@return { status: string, checks: table<string, { status: string, message: string?, since: integer, duration: number?, details: table? }>, summary: table<string, integer> } report since: seconds since 1970
function mx.health.report() end

--- # JSON

---@class mx.Json
mx.json = {}

--- Integers keep their value (int64 cdata beyond 2^53); an empty array stays one; NaN and infinities are refused.
---@param value any
---@return string? text
---@return mx.Error? err
function mx.json.encode(value) end

---@param text string
---@return any value
---@return mx.Error? err
function mx.json.decode(text) end

--- Marks a table, or a new one, as an array: it is written as [] also when it is empty. What was read as an array is one.
---@param t? table
---@return table t
function mx.json.array(t) end

---@param t any
---@return boolean
function mx.json.is_array(t) end

--- # Benchmarks
---
--- `mxrun bench FILE` plays what FILE returns. With a rate the model is open: messages are due by the schedule, whatever the broker does, and
--- their latencies count from then (`publish.confirm`, `e2e`); what counts from the real send is beside it (`raw`). All samples are measured.
--- What is due while a window is full, or while there is no connection, leaves as soon as it may, in a burst; what never left has waited
--- until the end, and counts. Who held a message back is told apart: when it was mxrun itself, the verdict is "generator-limited", exit code 3.
---
--- ```lua
--- return mx.workload {
---   topology = { queues = { bench = { durable = false } } },
---   producers = {
---     count = 4, key = "bench", size = { 200, 2000 }, max_in_flight = 1000,
---     stages = { { rate = 1000, duration = 10 }, { ramp = 20000, duration = 20 }, { rate = function(t) return 1000 + 100 * t end, duration = 30 } },
---   },
---   consumers = { count = 4, queue = "bench" },
---   warmup = 5, verify = true,
---   thresholds = {
---     ["e2e.p99"] = "< 20ms", ["publish.confirm.p95"] = "< 10ms", ["verify.lost"] = "== 0", ["memory.peak_rss"] = "< 256MB",
---     ["e2e.p99.9"] = { "< 1s", window = 10, abort = true },
---     tail = function(s) return s.e2e:p(99.99) < 0.5, "tail too long" end,
---   },
---   done = function(s) print(s.e2e:p(99.99)) end,
--- }
--- ```

--- Checks the description; raises at what is wrong with it.
---@param description mx.Workload
---@return table workload
function mx.workload(description) end

---@class mx.Workload
---@field name? string in the report (the file's name)
---@field topology? table as of mx.topology, declared first
---@field producers? mx.WorkloadProducers one group, or a list of groups
---@field consumers? mx.WorkloadConsumers one group, or a list of groups
---@field warmup? mx.seconds before the stages, at the rate of the first; not measured (0)
---@field duration? mx.seconds of producers without stages (10)
---@field verify? boolean|{ copies?: integer } counts what was lost, duplicated and out of order; copies: how often each message arrives (1; from a fanout exchange of the topology once in each of its queues that is consumed)
---@field thresholds? table<string, string|function|table> by path of the bench JSON: "< 20ms"; or a name of its own: a function of the result that answers false, why. { "< 20ms", window =, abort =, after = }: of each so many seconds; ends the run; not before
---@field drain? mx.seconds how long what is under way at the end may take to arrive, as long as something does (30)
---@field setup? fun() once the topology is declared; of several processes in the first
---@field done? fun(s: mx.BenchResult) at the end

--- Each producer has a connection of its own. Functions must not wait, but run. i: which message it is, counted over the producers of the group.
---@class mx.WorkloadProducers
---@field count? integer (1)
---@field exchange? string ("": the key is the queue's name)
---@field key? string|string[]|fun(i: integer, producer: integer): string of a list producers get one each, in turn
---@field size? integer|{ [1]: integer, [2]: integer }|fun(i: integer): integer bytes of a body (64); with 32 or more it begins with the stamp, else that is the header x-mx-bench
---@field body? string|table|fun(i: integer): string|table instead of size; a table becomes JSON
---@field options? mx.PublishOptions|fun(i: integer): mx.PublishOptions
---@field max_in_flight? integer of each producer (10000)
---@field rate? number|fun(t: number): number messages a second of the group; without it, and without stages, as fast as it goes
---@field stages? mx.WorkloadStage[]
---@field arrival? "uniform"|"poisson" even, or as by chance ("uniform")
---@field messages? integer each producer sends so many at most
---@field confirm? boolean (true)
---@field persistent? boolean (true)
---@field mandatory? boolean (true)
---@field timeout? mx.seconds for one confirm (30)
---@field run? fun(i: integer): ... instead of a publish: each arrival is a task that runs it, max_in_flight of them at once; false, or nil and an error, is an error. Its time is publish.confirm

---@class mx.WorkloadStage
---@field duration mx.seconds
---@field rate? number|fun(t: number): number messages a second; t: seconds in the stage, the function is asked before the run. Without rate and ramp: as fast as it goes
---@field ramp? number the rate changes evenly from that of the stage before (0) to this

--- Each consumer has a connection of its own.
---@class mx.WorkloadConsumers
---@field count? integer (1)
---@field queue? string|string[] of a list consumers get one each, in turn
---@field handler? fun(msg: mx.Message): ...
---@field messages? integer each takes so many; the run ends when all have
---@field prefetch? integer 256
---@field concurrency? integer 1
---@field auto_ack? boolean
---@field timeout? mx.seconds for a handler that waits (30)
---@field priority? integer
---@field args? table
---@field retry? mx.RetryOptions

--- What `--json` writes. Seconds and bytes throughout. Figures that are not there were not measured.
---@class mx.BenchResult
---@field name string
---@field verdict "ok"|"threshold"|"generator-limited"
---@field duration number of what was measured
---@field publish { count: integer, rate: number, errors: integer, unsent: integer, confirm: mx.BenchLatency } unsent: due, and never sent
---@field consume { count: integer, rate: number, handler: mx.BenchLatency }
---@field e2e mx.BenchLatency
---@field verify? { lost: integer, duplicated: integer, reordered: integer, unread: integer, expected: integer, strange: integer } reordered: a consumer got it after a later one of the same producer; unread: in the queues still; strange: of no producer of this run
---@field cpu { user: number, sys: number, us_per_message: number }
---@field memory { peak_rss: number, lua_peak: number, mb_per_1k_rate: number } of all processes together
---@field gc { cycles: integer, pause_avg: number, pause_p99: number, pause_max: number }
---@field generator? { lag_p99: number, lag_max: number, late: integer, behind: number, busy: number } how much later than it could have it sent; late: messages by more than 1 ms; for how long something was overdue, and which part of that it worked rather than slept
---@field thresholds { name: string, expr: string, value?: number, ok: boolean, why?: string, window?: number, aborted?: boolean }[]
---@field aborted? { at: number, name: string } a threshold or "signal" ended it early
---@field series table[] a row for each second
---@field histograms table<string, number[][]> confirm, confirm_raw, e2e, e2e_raw: { seconds, count } of each bucket
---@field system table
---@field config table the workload

--- p50, p95, p99, p999, max and mean are nil without samples.
---@class mx.BenchLatency
---@field count integer
---@field p50? number
---@field p95? number
---@field p99? number
---@field p999? number
---@field max? number
---@field mean? number
---@field raw? mx.BenchLatency of confirm and e2e: from the real send
---@field p fun(self, percent: number): number? any percentile

--- # Tests

--- For specs that `mxrun test` runs (busted's describe, it, assert); a spec may wait.
---@class mx.Test
mx.test = {}

--- Runs a script with no network: its consumers, publishes, timers and topology are kept in the harness.
---
--- ```lua
--- local refunds = mx.test.load "examples/refunds.lua"
--- local result = refunds:deliver("refunds", { id = 7, customer = "ann", amount = 501 })
--- assert(result.decision == "reject" and result.reason == "above the limit of 500")
--- refunds:close()
--- ```
---@async
---@param file string
---@param options? { timers?: boolean, tasks?: boolean, config?: table, args?: table, timeout?: mx.seconds } timers: true starts them
---@return mx.TestHarness harness
function mx.test.load(file, options) end

---@class mx.TestHarness
---@field consumers table by queue and in their order
---@field topology table what the script declared: exchanges, queues, bindings
---@field published table what its main chunk published
---@field timers table { seconds, fire() } of each mx.every and mx.after
---@field tasks table
---@field broker mx.TestBroker makes the script's publishes fail
---@field answer? fun(request: table): any answers its mx.call
---@field tcp? fun(host: string, port?: integer, options?: table): table?, mx.Error? opens its mx.tcp; without it there is no network
---@field waiting boolean the main chunk waits still
---@field stopped? boolean it called mx.stop
---@field exit_code? integer it called os.exit
local TestHarness = {}

--- Hands a message to the handler of the queue's consumer and waits for it. A table is the body, written as JSON - unless it has a
--- `body` or `data` and all its other fields are such as a message has (the names of `fields`): then it is the message. Where the body itself
--- may look like that, say so: `deliver(q, { data = body })`.
---
--- ```lua
--- local h = mx.test.load "examples/refunds.lua"
--- h:deliver("refunds", { id = 7, customer = "ann", amount = 30 })                        -- the body
--- h:deliver("refunds", { data = { id = 7, customer = "ann", amount = 30 }, attempt = 2 }) -- a message
--- h:deliver("refunds", { data = { data = "x", id = 7 } })                                -- a body that looks like a message
--- h:close()
--- ```
---@async
---@param queue string
---@param value string|table the body, or the message: see above
---@param fields? table of the message: headers, key, exchange, attempt, id, correlation_id, reply_to, content_type, content_encoding, type, app_id, timestamp, priority
---@return { decision: "ack"|"reject"|"retry"|"requeue"|"failed", reason: string?, delay: number?, dead: boolean?, published: table[], replies: table[]? } result
function TestHarness:deliver(queue, value, fields) end

--- Hands messages to the handler of the queue's mx.consume_batch as one batch, whatever its limits and its policy are, and waits for one
--- run of the handler. messages has the decision about each; halved: it failed, and would be run again by halves. The policy is a function to
--- be tried by itself: `h.consumers.rows.options.policy { count = 8, age = 0.1 }`.
---
--- ```lua
--- local h = mx.test.load "examples/batch.lua"
--- local result = h:deliver_batch("rows", { { id = 1, amount = 5 }, { id = 2 } })
--- assert(result.messages[1].decision == "ack" and result.messages[2].decision == "reject")
--- h:close()
--- ```
---@async
---@param queue string
---@param list (string|table)[] bodies, or messages: see deliver
---@return { decision: string, reason: string?, messages: table[], halved: boolean?, published: table[] } result
function TestHarness:deliver_batch(queue, list) end

--- Runs what the script gave to mx.on(event).
---@param event mx.Event
function TestHarness:emit(event, ...) end

---@async
function TestHarness:close() end

--- A mem:// broker of its own, whose faults are switched on by the test.
---@return mx.TestBroker
function mx.test.broker() end

---@class mx.TestBroker
local TestBroker = {}

---@return string
function TestBroker:url() end

---@async
---@param options? mx.ConnectOptions
---@return mx.Connection? conn
---@return mx.Error? err
function TestBroker:connect(options) end

--- Confirms come that late; 0: at once again.
---@param seconds mx.seconds
function TestBroker:delay(seconds) end

--- The next n publishes are nacked.
---@param n? integer 1
function TestBroker:nack(n) end

--- The next n mandatory publishes come back as unroutable.
---@param n? integer 1
function TestBroker:return_(n) end

--- Publishing waits, as while RabbitMQ is short of memory.
function TestBroker:block() end

function TestBroker:unblock() end

--- The channels that publish are closed now; what is pending ends as closed.
function TestBroker:close_channel() end

--- The clock of this process: it goes on by itself, and jumps when told to.
---
--- ```lua
--- local clock, rang = mx.test.clock(), false
--- mx.after(3600, function() rang = true end)
--- clock:advance(3600)
--- assert(rang)
--- ```
---@return mx.TestClock
function mx.test.clock() end

---@class mx.TestClock
---@field now fun(): number
---@field advance fun(self: mx.TestClock, seconds: mx.seconds) what falls due on the way happens at its time and in its order

--- Calls f until it returns something true; raises with its last error after the timeout.
---@async
---@param f fun(): any
---@param timeout? mx.seconds 5
---@return any value
function mx.test.eventually(f, timeout) end
