/* mark.c - messages that are watched while their handlers execute, since they may have killed a worker before. */
#include <errno.h>
#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "message/props.h"
#include "worker/shard.h"

enum { BODY_MAX = 65536 }; /* of a body without an id */

static uint64_t mix(uint64_t hash, const void *p, size_t n) { /* FNV-1a, with the size */
    const uint8_t *byte = p;
    for (size_t i = 0; i < n; i++) hash = (hash ^ byte[i]) * 0x100000001b3ull;
    return (hash ^ n) * 0x100000001b3ull;
}

MX_EXPORT uint64_t mx_msg_mark(const mx_msg *m, const char *queue, size_t size) {
    uint64_t hash = mix(0xcbf29ce484222325ull, queue, size);
    mx_props props;
    if (!mx_props_decode(m->props, m->props_size, &props) && props.flags & MX_P_MESSAGE_ID && props.message_id.n)
        hash = mix(hash, props.message_id.p, props.message_id.n);
    else hash = mix(mix(hash, m->key, m->key_size), m->body, m->size < BODY_MAX ? m->size : BODY_MAX);
    return hash ? hash : 1;
}

MX_EXPORT uint64_t *mx_worker_running(void) { return mx_place_get()->journal ? &mx_place_get()->shard->running : NULL; }

/* Also as a zombie, which a signal would still find. */
static int is_dead(int32_t pid) {
    int fd = pid ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
    if (fd < 0) return !pid || errno == ESRCH;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int dead = poll(&p, 1, 0) == 1;
    close(fd);
    return dead;
}

/* The broker may be quicker than the supervisor: what a worker ran that died a moment ago counts already. */
MX_EXPORT uint32_t mx_mark_crashes(uint64_t mark) {
    const mx_place *me = mx_place_get();
    if (!me->journal) return 0;
    uint32_t crashes = mx_journal_crashes(me->journal, mark);
    const mx_shard *all = me->shard - (me->number - 1);
    for (uint32_t i = 0; i < me->count; i++)
        if (&all[i] != me->shard && __atomic_load_n(&all[i].running, __ATOMIC_ACQUIRE) == mark && is_dead(all[i].pid)) crashes++;
    return crashes;
}
