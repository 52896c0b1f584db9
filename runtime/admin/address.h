/* address.h - listening where "host:port" says. */
#ifndef MX_ADDRESS_H
#define MX_ADDRESS_H
#include <stddef.h>

enum { MX_ADDRESS = 64 };
/* A listening socket, and in text where it listens: port 0 is any. address: host:port, :port or port, the host numeric,
 * in brackets if it has colons, or "localhost"; without one 127.0.0.1. public 0: MX_ECONFIG for what is not loopback.
 * Negative: MX_ECONFIG, it is no address for us; MX_ECONNECTION, the system refused; why says more. */
int mx_address_listen(const char *address, int public, int backlog, char text[MX_ADDRESS], char *why, size_t why_size);
#endif
