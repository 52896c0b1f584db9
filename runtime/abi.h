/* abi.h - everything of the runtime that Lua may see: this text is both the C declaration and the FFI's cdef.
 * No function here ever enters Lua: it answers, or it queues. Times are seconds (double); sizes are bytes. */

/* A borrowed run of bytes; p may be NULL when n is 0. */
typedef struct mx_span {
    const uint8_t *p;
    size_t n;
} mx_span;

/* Results: 0 or a negative code. Names and texts come from mx_error_name and mx_error_text. */
const char *mx_error_name(int code);    /* "timeout"; NULL past the last code */
const char *mx_error_text(int code);    /* "ran out of time" */
int mx_error_retryable(int code);

/* ---- waiting: a ticket is posted once, by an event or by its deadline --------------------------------------- */

/* What came of an operation; read it, then mx_reply_free. */
typedef struct mx_reply {
    int code;                       /* 0 or negative */
    uint16_t reply_code;            /* the broker's (404, 406 ...), 0: none */
    uint32_t messages, consumers;   /* queue.declare-ok, purge-ok, delete-ok */
    size_t text_size;
    char text[];                    /* the broker's reply text, or a server-given name; NUL-terminated */
} mx_reply;

typedef struct mx_post {
    uint32_t ticket;
    int32_t code;                   /* 0, or MX_ETIMEOUT when the deadline came first */
    mx_reply *reply;                /* NULL when there is nothing to say; the receiver frees it */
} mx_post;

typedef struct mx_waits {
    uint32_t head, tail, mask;      /* Lua takes posts at head */
    mx_post *post;
} mx_waits;

uint32_t mx_wait_new(mx_waits *w, double timeout);   /* < 0: no deadline; never returns 0 */
void mx_wait_drop(mx_waits *w, uint32_t ticket);     /* it will not be posted any more; a stale ticket is ignored */
void mx_reply_free(mx_reply *r);

/* ---- deliveries -------------------------------------------------------------------------------------------- */

enum { MX_UNSETTLED, MX_ACK, MX_REJECT, MX_REQUEUE };

typedef struct mx_message mx_message;
typedef struct mx_hist mx_hist;

/* One delivery: a slot of an inbox. The spans are valid until verdict is set. */
typedef struct mx_msg {
    const uint8_t *body;
    const uint8_t *exchange, *key;
    const uint8_t *props;           /* property flags and list as on the wire (AMQP 0-9-1, 4.2.6.1) */
    mx_message *own;                /* holds the bytes; NULL while they lie in the read buffer */
    uint64_t tag;
    uint64_t came_us;               /* when it was taken in, by the loop's latest look at the clock */
    size_t size;                    /* of the body */
    uint32_t props_size;
    uint32_t seq;                   /* its position in the inbox: tells a reused slot */
    uint8_t exchange_size, key_size;
    uint8_t redelivered;
    uint8_t verdict;                /* MX_ACK ...; written by Lua once */
    uint8_t sent;                   /* the broker knows the verdict already */
} mx_msg;

enum { MX_OPENING, MX_OPEN, MX_CLOSING, MX_CLOSED };

/* Deliveries of one consumer: C writes at tail, Lua takes at head, C settles from settled. A ring of positions. */
typedef struct mx_inbox {
    uint32_t head, tail, settled, mask;
    mx_msg *slot;
    uint32_t state;                 /* MX_OPENING ... of the subscription */
    uint32_t cancelled;             /* 1: by the broker (queue deleted, failover) */
    double delivered, acked, rejected, requeued;   /* counts */
    double refused;                 /* deliveries beyond max_body and the like, which were rejected unread */
    const char *refusal;            /* what was wrong with the latest of them */
    const char *error;              /* why the broker closed its channel; NULL: it did not */
    mx_hist *wait;                  /* of Lua's: from taking a delivery in to the start of its handler; NULL: nobody asks */
    uint32_t begun;                 /* up to here that is known */
} mx_inbox;

/* ---- batches: what is gathered until a limit is reached ------------------------------------------------------ */

enum { MX_BATCH_OPEN, MX_BATCH_SIZE, MX_BATCH_BYTES, MX_BATCH_TIME };

/* What a policy sees of a batch. C writes the first five, Lua the others. */
typedef struct mx_batch_look {
    double count, bytes;            /* bytes: of the bodies */
    double age, idle;               /* seconds since its first and its latest came */
    double depth;                   /* how many wait behind it in the inbox */
    double rate, memory, in_flight;
} mx_batch_look;

typedef struct mx_batch {
    uint32_t count, size;           /* how many there are, and may be */
    uint32_t due;                   /* MX_BATCH_SIZE ...: the limit that it has reached; MX_BATCH_OPEN: it may grow */
    double bytes, most;             /* most: bytes that there may be; one message may be larger */
    double timeout, since, latest;  /* since, latest: when its first and its latest came */
    uint32_t *seq, room;            /* their positions in the inbox */
    mx_batch_look *look;            /* Lua's */
} mx_batch;

mx_batch *mx_batch_new(uint32_t size, double bytes, double timeout, mx_batch_look *look);
void mx_batch_free(mx_batch *b);
void mx_batch_clear(mx_batch *b);
/* Takes at most so many deliveries at the inbox's head until a limit is reached. now: what mx_now() said lately. */
void mx_batch_take(mx_batch *b, mx_inbox *ib, uint32_t most, double now);
void mx_batch_tell(mx_batch *b, const mx_inbox *ib, double now);    /* brings look and due up to now; ib may be NULL */

/* Basic properties (AMQP 0-9-1, 1.8). flags says which fields are set, in the protocol's own bits. */
enum {
    MX_P_CONTENT_TYPE = 0x8000, MX_P_CONTENT_ENCODING = 0x4000, MX_P_HEADERS = 0x2000, MX_P_DELIVERY_MODE = 0x1000,
    MX_P_PRIORITY = 0x800, MX_P_CORRELATION_ID = 0x400, MX_P_REPLY_TO = 0x200, MX_P_EXPIRATION = 0x100,
    MX_P_MESSAGE_ID = 0x80, MX_P_TIMESTAMP = 0x40, MX_P_TYPE = 0x20, MX_P_USER_ID = 0x10, MX_P_APP_ID = 8
};
typedef struct mx_props {
    uint32_t flags;
    uint8_t delivery_mode, priority;
    uint64_t timestamp;
    mx_span content_type, content_encoding;
    mx_span headers;                /* an encoded table, without its leading length */
    mx_span correlation_id, reply_to, expiration, message_id, type, user_id, app_id;
} mx_props;

int mx_props_decode(const uint8_t *props, size_t size, mx_props *out);   /* spans point into props */

/* ---- links ------------------------------------------------------------------------------------------------- */

typedef struct mx_link {
    uint32_t state;                 /* MX_OPENING ... */
    uint32_t blocked;               /* the broker said connection.blocked */
    uint32_t channels, channel_max; /* in use by consumers and publishers; how many there may be */
    uint32_t rabbit;                /* RabbitMQ's major version; 0: it does not say one */
    double opened_at, idle_since;   /* mx_now(); idle_since: when the last of its channels was given back */
    double round_trip;              /* seconds the broker took for the latest answer; 0: it gave none yet */
    double rpc_timeout;
    char *error;                    /* why it closed; NULL while open */
    int error_code;                 /* MX_ECONNECTION, MX_EACCESS ... */
    uint16_t reply_code;            /* the broker's, 0: none */
} mx_link;

/* Paths of PEM files; empty: the system's CAs, no client certificate, no revocation list. */
typedef struct mx_link_tls {
    mx_span ca, cert, key, crl;
    mx_span name;                   /* of the broker, in its certificate and for SNI; empty: the host */
    uint32_t min_version;           /* 12 or 13 */
    uint32_t unverified;            /* 1: whoever answers is trusted */
    uint32_t external;              /* 1: SASL EXTERNAL, the certificate says who we are */
} mx_link_tls;

/* The files are read at each new connection; when they cannot be used then, what was read from them last stays in use. */
int mx_tls_reload(void);                             /* reads those of each connection so far again; how many sets they are */
const char *mx_tls_trouble(void);                    /* why some cannot be used, each reason once; NULL: none, or all are told */

mx_span mx_environment(const char *name);            /* for passwords: it stays where no core dump takes it; p NULL: not set */

typedef struct mx_link_options {
    mx_span scheme;                 /* "amqp", "amqps", "mem" */
    mx_span host, port, user, password, vhost;   /* host is the broker's name for mem:// */
    mx_span name;                   /* connection_name in the broker's own UI */
    double heartbeat, connect_timeout, rpc_timeout;
    size_t max_body;                /* larger bodies are refused, both ways */
    mx_link_tls tls;                /* for amqps */
} mx_link_options;

/* A protocol operation with a reply. flags: MX_F_... ; args is an encoded table without its length. */
enum { MX_DECLARE_QUEUE, MX_DECLARE_EXCHANGE, MX_BIND, MX_UNBIND, MX_BIND_EXCHANGE, MX_PURGE, MX_DELETE_QUEUE, MX_DELETE_EXCHANGE };
enum { MX_F_PASSIVE = 1, MX_F_DURABLE = 2, MX_F_EXCLUSIVE = 4, MX_F_AUTO_DELETE = 8, MX_F_INTERNAL = 16, MX_F_NO_ACK = 32, MX_F_STREAM = 64 };
typedef struct mx_call {
    uint32_t op, flags;
    mx_span name;                   /* the queue; for exchange operations the exchange (for BIND_EXCHANGE the target) */
    mx_span source;                 /* BIND, UNBIND, BIND_EXCHANGE: the exchange bound from; DECLARE_EXCHANGE: its type */
    mx_span key;
    mx_span args;
} mx_call;

typedef struct mx_consume {
    mx_span queue, tag;             /* tag: chosen by the caller, unique on its link */
    uint32_t prefetch;              /* 0: no limit */
    uint32_t flags;                 /* MX_F_NO_ACK, MX_F_EXCLUSIVE; MX_F_STREAM: whatever the verdict, it is an ack */
    mx_span args;
} mx_consume;

typedef struct mx_runtime mx_runtime;

/* The link is the caller's until mx_link_close; the ticket is posted once it is open or has failed (reply says why). */
mx_link *mx_link_open(mx_runtime *r, const mx_link_options *o, uint32_t ticket);
void mx_link_close(mx_link *l, uint32_t ticket);     /* orderly; posted when nothing of it is left: of a lost one its inboxes go first */
/* 0: queued, the ticket will be posted; negative: refused here, nothing was queued (mx_refusal says why). */
int mx_link_call(mx_link *l, const mx_call *c, uint32_t ticket);
const char *mx_refusal(void);                        /* the text of the last negative answer of mx_link_call, mx_publish, NULL of mx_link_consume */

/* The inbox lives until its ticket of mx_inbox_close is posted. NULL: refused here, the ticket will not be posted. */
mx_inbox *mx_link_consume(mx_link *l, const mx_consume *c, uint32_t ticket);
void mx_inbox_cancel(mx_inbox *ib, uint32_t ticket);    /* basic.cancel; what was not taken goes back; verdicts still flow */
void mx_inbox_close(mx_inbox *ib, uint32_t ticket);     /* flushes verdicts, requeues the rest, frees it */
void mx_msg_keep(mx_msg *m, mx_msg *copy);              /* of an unsettled delivery; valid until mx_msg_drop(copy) */
void mx_msg_drop(mx_msg *copy);
double mx_inbox_bytes(const mx_inbox *ib);              /* of its deliveries that are not settled */

/* ---- pools: links of one purpose ---------------------------------------------------------------------------- */

typedef struct mx_pool mx_pool;
mx_pool *mx_pool_new(mx_runtime *r, uint32_t channels);  /* at most so many on each link */
void mx_pool_free(mx_pool *p);                          /* its links stay */
void mx_pool_add(mx_pool *p, mx_link *l);               /* it leaves when it is closed */
/* The open one with the fewest channels in use; room: it must have one to give. NULL: there is none. */
mx_link *mx_pool_least_used(const mx_pool *p, int room);
void mx_pool_wait(mx_pool *p, uint32_t ticket);         /* posted when a channel was given back */

/* ---- publishing ------------------------------------------------------------------------------------------- */

enum { MX_PUB_CONFIRM = 1, MX_PUB_ONCE = 2 };
enum { MX_PENDING, MX_CONFIRMED, MX_NACKED, MX_RETURNED, MX_TIMED_OUT, MX_LOST };   /* a receipt's state; LOST reads "closed" */

typedef struct mx_pub {
    double seq;                     /* of the latest publish; they count from 1 */
    double settled;                 /* every publish up to here has ended */
    uint32_t window;                /* how many may be pending */
    uint32_t state;                 /* MX_OPENING ... of its channel */
    uint32_t confirm;               /* 0: fire and forget */
    double failed;                  /* how many ended otherwise than confirmed */
    uint32_t adrift;                /* 1: it has no channel, what is published waits for mx_pub_reopen */
    uint16_t reply_code;            /* why the channel closed last */
    char *error;
} mx_pub;

/* With confirms a publisher outlives its link: what is published meanwhile waits. MX_PUB_ONCE: what was sent is
 * never sent again, it ends as lost. */
mx_pub *mx_pub_open(mx_link *l, uint32_t window, int mode, double timeout, uint32_t ticket);
/* A new channel, on l, after the broker closed the old one or its link was lost; what is pending is sent again on it. */
int mx_pub_reopen(mx_pub *p, mx_link *l, uint32_t ticket);
/* Direct reply-to: what is published with reply_to "amq.rabbitmq.reply-to" on p's channel is answered into this inbox,
 * without acks; its state is MX_CLOSED once that channel is. NULL: the link has none, the ticket is not posted. */
mx_inbox *mx_pub_replies(mx_pub *p, uint32_t ticket);
void mx_pub_close(mx_pub *p, uint32_t ticket);          /* pending publishes end as lost; freed when posted */
/* The sequence number; or negative: MX_EAGAIN window full, MX_ECLOSED, MX_EVALIDATION (mx_refusal says why).
 * props NULL: delivery mode 2 (MX_TRANSIENT: 1); a missing message id is made. timeout 0: the publisher's. */
enum { MX_MANDATORY = 1, MX_TRANSIENT = 2 };
double mx_publish(mx_pub *p, const char *exchange, size_t exchange_size, const char *key, size_t key_size, const void *body,
                  size_t size, const mx_props *props, int flags, double timeout);
int mx_receipt_state(mx_pub *p, double seq);            /* MX_PENDING ... */
void mx_receipt_watch(mx_pub *p, double seq, uint32_t ticket);  /* posted when it has ended; at once if it has */
double mx_pub_failure(const mx_pub *p, double after);   /* the first publish behind after that is known to have failed, 0: none */
size_t mx_receipt_id(mx_pub *p, double seq, uint8_t *to);       /* the message id made for it; its size, 20 */
/* What is published from now on is kept together until the batch, which is p's, is due, the window is full, or mx_pub_release. */
mx_batch *mx_pub_gather(mx_pub *p, uint32_t size, double bytes, double timeout, mx_batch_look *look);
void mx_pub_release(mx_pub *p);
/* Of a full window: posted when an eighth of it is free again, or the channel closes; when it is not full, at once. */
void mx_pub_watch(mx_pub *p, uint32_t ticket);

/* ---- sockets ----------------------------------------------------------------------------------------------- */

typedef struct mx_sock {
    uint32_t state;                 /* MX_OPENING, MX_OPEN; MX_CLOSED: nothing more comes or goes, data can still be taken */
    int code;                       /* why it closed: MX_ECLOSED, the peer in order; MX_ECONNECTION, MX_ECONFIG */
    char *error;                    /* the same as text; NULL while open */
    const uint8_t *data;            /* what came and was not taken; valid until Lua leaves its turn */
    size_t size;
} mx_sock;

/* host "unix:/path" is a local socket; tls NULL: none. The ticket is posted once it is open or has failed (state says which). */
mx_sock *mx_sock_open(mx_runtime *r, const char *host, const char *port, const mx_link_tls *tls, uint32_t ticket);
/* Posted when so many bytes are there or none will come any more. At most 64 KiB more than that are read. */
void mx_sock_wait(mx_sock *s, size_t size, uint32_t ticket);
void mx_sock_take(mx_sock *s, size_t n);                /* of data, from its start; it also ends the wait */
double mx_sock_find(const mx_sock *s, size_t from, const char *what, size_t n);    /* where in data; < 0: nowhere */
/* Copies. 0: the kernel has it all; MX_EAGAIN: the ticket is posted when it has or never will, until then no other send;
 * else why not. */
int mx_sock_send(mx_sock *s, const void *p, size_t n, uint32_t ticket);
/* Encrypts an open one from now on, as the server is expected to: what it said before has to be taken, what was sent to be gone.
 * 0: the ticket is posted as for mx_sock_open, else why not; then it is as it was. host: its name, if tls has none. */
int mx_sock_encrypt(mx_sock *s, const char *host, const mx_link_tls *tls, uint32_t ticket);
void mx_sock_close(mx_sock *s);                         /* posts who waits; what was not sent is dropped */

/* ---- memory ------------------------------------------------------------------------------------------------- */

typedef struct mx_memory {              /* bytes, but objects */
    double lua, lua_peak, objects;      /* the VM's heap, the most it was, how many blocks */
    double messages;                    /* deliveries that are not settled, and what lies in queues of mem:// */
    double unconfirmed;                 /* what goes out, until it is confirmed */
    double buffers;                     /* what sockets read into */
    double deliveries, receipts;        /* room for both: prefetch and max_in_flight */
    double broker, tls, profiler, pools;    /* pools: kept for the next message */
    double other, free;                 /* in use by somebody else; kept by malloc */
    double retained;                    /* resident beyond all that is in use: kept by malloc and the VM's allocator, compiled code, stacks */
    double total, limit, rss;           /* total: in use; limit 0: none */
} mx_memory;
void mx_memory_read(mx_memory *m);
double mx_memory_used(void);            /* what the limit is about: Lua's heap and everything above but other */
double mx_memory_held(void);            /* the same without Lua's heap */
void mx_memory_limit(double bytes);     /* a handler that goes beyond it ends with an error; 0: none */
void mx_memory_cap(double bytes);       /* until it is called again Lua may hold so much more than now, within the limit; 0: no such cap */
void mx_memory_refuse(int on);          /* from now on each publish fails with MX_EMEMORY */
void mx_memory_shrink(void);            /* what the pools keep goes back to the system */
typedef struct mx_memory_pool_stats {
    const char *name;
    double live, free, hits, misses;    /* blocks; how often one was there */
} mx_memory_pool_stats;
int mx_memory_pool(int i, mx_memory_pool_stats *to);    /* 0: there is none of that number, they count from 0 */

/* ---- HTTP --------------------------------------------------------------------------------------------------- */

/* What the runtime does not answer itself. The texts are valid until it is answered or Lua leaves its turn. */
typedef struct mx_http_request {
    uint32_t id;
    const char *path, *query, *accept;                  /* "/metrics"; what stands behind the ?; the header's value */
} mx_http_request;
const char *mx_http_address(mx_runtime *r);             /* where it listens; empty: only the supervisor asks; NULL: there is none */
void mx_http_wait(mx_runtime *r, uint32_t ticket);      /* posted when there is one to take */
int mx_http_take(mx_runtime *r, mx_http_request *to);   /* 0: there is none */
void mx_http_patience(mx_runtime *r, uint32_t id, double seconds);  /* how long the answer may take from now; at first 10 s */
/* Copies. Who takes longer answers nobody any more. */
void mx_http_answer(mx_runtime *r, uint32_t id, int status, const char *type, const void *body, size_t n);

/* HTTP to somebody who collects, over libcurl. */
typedef struct mx_upload_options {
    const char *url, *headers;                          /* http:// or https://; lines "Name: value\n" */
    const char *ca;                                     /* a PEM file; NULL: the system's CAs */
    double timeout;                                     /* seconds, for all of it */
} mx_upload_options;
/* Copies. 0: the ticket is posted with the answer's status, or with a negative code and a reply that says why; else not, and
 * mx_refusal says why. */
int mx_upload(mx_runtime *r, const mx_upload_options *o, const void *body, size_t n, uint32_t ticket);

/* ---- profiles, in pprof's format ----------------------------------------------------------------------------- */

/* As pprof has them (profile.proto): samples with the same stack and the same labels are one row, whose values grow. Functions,
 * locations, labels and rows are numbers that count from 1. */
typedef struct mx_pprof mx_pprof;
enum { MX_PPROF_VALUES = 8, MX_PPROF_LABELS = 8 };
mx_pprof *mx_pprof_new(void);
void mx_pprof_free(mx_pprof *p);

/* In their order, before any sample: "cpu", "nanoseconds". At most MX_PPROF_VALUES. */
void mx_pprof_type(mx_pprof *p, const char *type, const char *unit);
void mx_pprof_default(mx_pprof *p, const char *type);   /* which of them tools show first; without it the last */
void mx_pprof_period(mx_pprof *p, const char *type, const char *unit, int64_t period);
void mx_pprof_time(mx_pprof *p, int64_t time_ns, int64_t duration_ns);  /* time_ns: since 1970 */
void mx_pprof_comment(mx_pprof *p, const char *text);   /* once each */

/* The same name, file and line answer the same number. line: where it is defined, 0: unknown. */
uint32_t mx_pprof_function(mx_pprof *p, const char *name, const char *file, int64_t line);
uint32_t mx_pprof_location(mx_pprof *p, uint32_t function, int64_t line);       /* line: where it was just then */
/* Name, value pairs in any order, n of them, at most MX_PPROF_LABELS; 0: none. */
uint32_t mx_pprof_labels(mx_pprof *p, const char *const *pairs, int n);
/* Of these locations, leaf first; a new one begins with zeros. mx_pprof_values(p, row)[i] += ..., valid until the next new row. */
uint32_t mx_pprof_row(mx_pprof *p, const uint32_t *locations, int depth, uint32_t labels);
int64_t *mx_pprof_values(mx_pprof *p, uint32_t row);

/* Adds what is written (gzip'd or not) times factor (1, -1); an empty profile takes its types. 0, or MX_EVALIDATION and why (valid
 * until the next call): it is no profile, or of other types; nothing of it was added then. Also of go's own profiles (mappings,
 * addresses, inlined lines). Hostile input costs no more than its size: at most 64 MiB are unpacked, no stack is deeper than 2048. */
int mx_pprof_read(mx_pprof *p, const void *bytes, size_t n, int factor, const char **why);
int mx_pprof_add(mx_pprof *p, const mx_pprof *other, int factor, const char **why);
/* The other's sample types behind those of p, and its rows; not 0: they are too many. */
int mx_pprof_join(mx_pprof *p, const mx_pprof *other);
char *mx_pprof_write(const mx_pprof *p, size_t *n);     /* gzip'd, for mx_bytes_free. Rows whose values are all 0 are left out */
void mx_bytes_free(char *p);

/* What is in one; texts and pointers are valid until something is added to it. */
typedef struct mx_pprof_summary {
    const char *type[8], *unit[8];
    uint32_t types, shown, rows;            /* shown: which type tools show first */
    const char *period_type, *period_unit;
    int64_t period, time_ns, duration_ns;   /* 0: unknown */
} mx_pprof_summary;
typedef struct mx_pprof_sample {
    const uint32_t *locations;              /* leaf first */
    const int64_t *values;
    uint32_t depth, labels;
} mx_pprof_sample;
typedef struct mx_pprof_frame {
    const char *name, *file;
    int64_t line, start;                    /* where it was; where its function is defined */
    uint32_t function;
} mx_pprof_frame;
void mx_pprof_sum_up(const mx_pprof *p, mx_pprof_summary *to);
void mx_pprof_sample_of(const mx_pprof *p, uint32_t row, mx_pprof_sample *to);
void mx_pprof_frame_of(const mx_pprof *p, uint32_t location, mx_pprof_frame *to);
/* The i-th label, they count from 0; a number as text, valid until the next call. 0: there is none of that number. */
int mx_pprof_label_of(const mx_pprof *p, uint32_t labels, uint32_t i, const char **name, const char **value);

enum { MX_CPU, MX_HEAP, MX_WAIT, MX_PROFILES };
/* Counted: while somebody wants it, it is taken. rate: samples a second of CPU time; bytes between two samples of the heap, the first
 * that asks decides; ignored for what is waited for, which is exact. */
void mx_profile_want(int which, double rate);
void mx_profile_leave(int which);
mx_pprof *mx_profile_copy(int which);                   /* by now; of the heap's four values the last two are what is held */
mx_pprof *mx_profile_tasks(void);                       /* those that were said to be there since the last call; NULL: none */
/* Labels as one number, which holds for what happens while mx_turn.labels is it. 0: none, or there are too many. */
uint32_t mx_profile_label(uint32_t others, const char *name, const char *value);
double mx_profile_cost(void);                           /* seconds spent on profiles so far */
double mx_profile_slowed(void);                         /* how often a rate was halved, since that was more than 2 % */
double mx_profile_rate(int which);                      /* what it is now; 0: off */
/* The name of a function of Lua by the line where it is defined. source: as debug.getinfo has it: "@file" is read, a text without @
 * or = is the source itself. 1: found, "send" or "Queue:send"; 0: it has no name there; MX_ECONFIG: there is no source to read. */
int mx_definition_name(const char *source, int64_t line, char *to, size_t size);

/* ---- the control socket -------------------------------------------------------------------------------------- */

/* A line of a client, without its end, valid until Lua leaves its turn; text NULL: the client has gone. */
typedef struct mx_control_line {
    uint32_t client, uid;
    int32_t pid;                    /* both of the process that connected */
    const char *text;
    size_t size;
} mx_control_line;
const char *mx_control_path(mx_runtime *r);             /* where it listens; NULL: nowhere */
void mx_control_wait(mx_runtime *r, uint32_t ticket);   /* posted when there is a line to take */
int mx_control_take(mx_runtime *r, mx_control_line *to);    /* 0: there is none */
/* Copies. MX_ECLOSED: the client has gone; MX_EBACKPRESSURE: it does not read, and is dropped. */
int mx_control_send(mx_runtime *r, uint32_t client, const char *p, size_t n);
double mx_control_pending(mx_runtime *r, uint32_t client);  /* bytes that it has not read yet; < 0: it has gone */
void mx_control_drop(mx_runtime *r, uint32_t client);

/* ---- the prompt's terminal ------------------------------------------------------------------------------------ */

enum { MX_KEY_NONE, MX_KEY_LINE, MX_KEY_TAB, MX_KEY_INTERRUPT, MX_KEY_END };
int mx_editor_open(mx_runtime *r, const char *history); /* 0; else mx_refusal says why. history: a file's path, empty: none */
void mx_editor_wait(mx_runtime *r, uint32_t ticket);    /* posted when there is something to take; until then keys are not read */
/* MX_KEY_LINE, with the line; MX_KEY_TAB, with what stands before the cursor. The text is valid until the next call. */
int mx_editor_take(mx_runtime *r, const char **text, size_t *size);
void mx_editor_prompt(mx_runtime *r, const char *text); /* before the line that is typed */
void mx_editor_insert(mx_runtime *r, const char *text); /* at the cursor */
void mx_editor_print(mx_runtime *r, const char *p, size_t n);   /* above the line; what a slow terminal does not take is dropped */
void mx_editor_close(mx_runtime *r);                    /* the terminal is as it was before */

/* ---- the process ------------------------------------------------------------------------------------------- */

mx_hist *mx_hist_new(void);                             /* 1 us to 1 h, 3 significant digits */
void mx_hist_free(mx_hist *h);
void mx_hist_record(mx_hist *h, double seconds);
double mx_hist_percentile(const mx_hist *h, double p);  /* seconds; 0 when empty */
double mx_hist_recent(const mx_hist *h, double p);      /* the same of the last 10 to 20 s only */
double mx_hist_max(const mx_hist *h);
double mx_hist_count(const mx_hist *h);
double mx_hist_mean(const mx_hist *h);
void mx_hist_many(mx_hist *h, double seconds, double count);    /* the same sample so many times */
void mx_hist_clear(mx_hist *h);
void mx_hist_merge(mx_hist *to, const mx_hist *from);   /* adds all samples; mx_hist_recent does not see them */
void mx_hist_subtract(mx_hist *from, const mx_hist *earlier);   /* what was added since; earlier: what it was then */
/* The first bucket at place or behind it that is not empty: its largest value and its samples. The place behind it, 0: none. */
int mx_hist_bucket(const mx_hist *h, int place, double *seconds, double *count);

/* Handlers are timed each, or a run of 64 at once while they take 2 us and less: of a run that takes longer the last one did. */
typedef struct mx_pace {
    mx_hist *hist;
    uint32_t every;                 /* a run ends where these bits of the position are all set: 63, or 0 */
    uint32_t watched;               /* so many more are timed each */
} mx_pace;
typedef struct mx_run {             /* of one task: its handlers from first on, since then */
    double from;
    uint32_t first;
} mx_run;
void mx_pace_begin(mx_run *r, uint32_t first);
void mx_pace_end(mx_pace *p, mx_run *r, uint32_t last); /* and another run begins */

/* One number of /metrics, or one histogram. Lua writes value; what has the same name and labels is added up in the text. */
enum { MX_FREE, MX_HELP, MX_COUNTER, MX_GAUGE, MX_HISTOGRAM };
typedef struct mx_series {
    double value;                   /* of a counter or gauge */
    uint32_t size, kind;            /* bytes to the next record; MX_COUNTER ... */
    uint16_t name_size, labels_size;
} mx_series;
/* labels: 'country="PL",shop="7"' as in the text, or empty; of MX_HELP the help. NULL: there is no room. */
mx_series *mx_series_new(int kind, const char *name, const char *labels);
void mx_series_drop(mx_series *s);
mx_hist *mx_series_hist(mx_series *s);                  /* lives as long as s */
const char *mx_metrics_text(int openmetrics, size_t *size);     /* Prometheus's, or OpenMetrics; valid until the next call */

/* What Lua and the worker tell each other during a turn. */
typedef struct mx_turn {
    volatile uint32_t tick;         /* counts 5 ms steps while Lua runs */
    uint32_t work;                  /* changes with each handler and task: the turn limit restarts */
    uint32_t limit;                 /* ticks that the present work may take; 0: the turn limit */
    uint32_t again;                 /* Lua: there is more to do at once */
    uint32_t stop;                  /* Lua: leave the loop with exit_code */
    int exit_code;
    uint32_t signals;               /* how many SIGTERM and SIGINT came, and SIGHUP when the terminal went */
    uint32_t reloads;               /* how many other SIGHUP came */
    mx_waits *waits;
    mx_hist *confirm, *lag, *gc;    /* gc: the collector's steps between turns */
    double gc_cycles, gc_seconds;   /* of the collector, whoever drove it; what those steps took in all */
    uint32_t labels;                /* of what runs, see mx_profile_label */
} mx_turn;

double mx_now(void);                                    /* monotonic, never cached */
void mx_log_write(const char *line, size_t n);          /* to stderr, without ever waiting for whoever reads that */
double mx_log_dropped(void);                            /* lines that it did not take */
double mx_file_stamp(const char *path);                 /* another one after the file was changed or replaced; 0: there is none */
int mx_process_id(void);
const char *mx_version(void);
const char *mx_make_directory(const char *path);        /* NULL: it is there now; else why not */
uint64_t mx_random(void);                               /* of the kernel; nobody can guess it */
mx_turn *mx_runtime_turn(mx_runtime *r);

/* How far the script is: the supervisor of mxrun -w and systemd are told. */
enum { MX_STARTING, MX_UP, MX_STOPPING };
void mx_worker_state(int state);
/* What mxrun -w --http serves of this worker, to be said once a second. */
int mx_worker_watched(void);                            /* 0: by nobody */
enum { MX_HEALTHY, MX_DEGRADED, MX_UNHEALTHY };
enum { MX_REPORT_BYTES = 16384 };
/* why: it is not ready, NULL: it is; json: an object of at most MX_REPORT_BYTES, without number, state and status. */
void mx_worker_report(const char *why, int health, const char *json, size_t n);

/* Messages that may have killed their worker. NULL: there is no supervisor that would count. Otherwise where the mark of the
 * redelivered message stands whose handler executes at the moment, 0: none. */
uint64_t *mx_worker_running(void);
uint64_t mx_msg_mark(const mx_msg *m, const char *queue, size_t size);  /* its queue and id; without one, what is in it */
uint32_t mx_mark_crashes(uint64_t mark);                /* how many workers have died while it executed */

/* ---- benchmarks --------------------------------------------------------------------------------------------- */

/* What each message of a benchmark carries: at the start of its body, or in the header x-mx-bench. Times are mx_now()'s. */
typedef struct mx_stamp {
    uint32_t run, producer;         /* run: of which benchmark; producers count from 0 */
    double number;                  /* of the messages of its producer, from 1 */
    double due, sent;               /* when it was to leave, and when it did */
} mx_stamp;

enum { MX_TALLY_CONFIRM, MX_TALLY_CONFIRM_RAW, MX_TALLY_E2E, MX_TALLY_E2E_RAW, MX_TALLY_LAG, MX_TALLY_HANDLER, MX_TALLY_GC, MX_TALLY_HISTS };
enum { MX_TALLY_SET_UP, MX_TALLY_READY, MX_TALLY_SENT, MX_TALLY_DONE };

/* What one process of a benchmark counts. All of them lie in memory that these processes share; each writes its own. */
typedef struct mx_tally {
    double sent, confirmed, late;   /* of what was due since from; late: by more than 1 ms, through the generator's own fault */
    double received;                /* since from */
    double published;               /* like the rest, from the first message on */
    double arrived, duplicated, reordered, strange;     /* arrived: for the first time; strange: of no producer of this run */
    /* Lua's */
    double failed, excused, unsent, in_flight, behind, behind_ran, behind_waited, rss, peak_rss, lua_peak, user, system, gc_cycles, gc_seconds;
    double ended;                   /* when the last message left */
    double state;                   /* MX_TALLY_SET_UP ... */
} mx_tally;

/* What all of them read and the first one writes. */
typedef struct mx_tallies {
    uint32_t run, workers, windows;
    double start, from;             /* when the schedule begins, 0: not yet; what was due before from is warm-up */
    double stop, over;              /* 1: nothing more is sent; 1: it has ended */
} mx_tallies;

/* windows: of which the numbers of messages are remembered, the last half million of each. NULL: there is no memory. */
mx_tallies *mx_tallies_new(uint32_t workers, uint32_t windows);
mx_tallies *mx_tallies_attach(uint32_t *number);        /* in a process that mx_tallies_spawn started; NULL: in another */
/* Starts this program again as the worker of that number; argv ends with NULL. It goes when its parent goes. Its pid, or negative. */
int mx_tallies_spawn(mx_tallies *t, uint32_t number, const char *const *argv, const char *urls);
int mx_child_ended(int pid);                            /* its exit code, 128 and more: a signal's; negative: it runs */
mx_tally *mx_tally_of(mx_tallies *t, uint32_t number);  /* from 1 */
mx_hist *mx_tally_hist(mx_tallies *t, uint32_t number, int which);
/* A message has left: when it was due, and how late it was through our own fault; negative: it had no schedule. */
void mx_tally_sent(mx_tallies *t, uint32_t number, double due, double lag);
/* A delivery to a consumer, which keeps in last the highest number of each producer. stream: the windows are by producer and stream. */
void mx_tally_receive(mx_tallies *t, uint32_t number, const mx_msg *m, uint32_t streams, uint32_t stream, double *last);
int mx_tally_has(mx_tallies *t, uint32_t window, double number);    /* whether it arrived; what is too old to say did */

/* From now on confirms of p are counted and measured: by what is due at [sequence number & mask]. Lives as long as p. */
typedef struct mx_probe {
    double *due;
    uint32_t mask;
} mx_probe;
mx_probe *mx_pub_probe(mx_pub *p, mx_tallies *t, uint32_t number);

/* Of this process so far: seconds of processor time; of them the loop's, and for how long it waited while others had the
 * processor; bytes. */
typedef struct mx_usage {
    double user, system, ran, waited, peak_rss;
} mx_usage;
void mx_usage_read(mx_usage *to);
int mx_processors(void);                                /* that this process may run on */

/* ---- for tests --------------------------------------------------------------------------------------------- */

void mx_clock_advance(double seconds);                  /* every deadline of this process is that much nearer */
double mx_timers_due(mx_runtime *r);                    /* seconds to the next deadline, 0: it has passed, < 0: none */

/* What goes wrong at a mem:// broker. Lua writes, the links of that broker act on it. */
typedef struct mx_faults {
    double delay;                   /* confirms come this many seconds late */
    uint32_t nack, give_back;       /* so many of the next publishes are refused; are returned as unroutable */
    uint32_t blocked;               /* publishing waits, as after connection.blocked */
    uint32_t close_channels;        /* counts: publishing channels are closed when it changes */
} mx_faults;
mx_faults *mx_faults_of(const char *broker);            /* of the links opened later; lives as long as the process */
