/* faults.h - what a test makes go wrong at a mem:// broker: a layer over its links, put there when they open. */
#ifndef MX_FAULTS_H
#define MX_FAULTS_H
#include "link/link.h"

/* Answers the link itself; without mx_faults_of for that name nothing is changed. */
mx_link *mx_faults_watch(mx_link *l, mx_span broker);
#endif
