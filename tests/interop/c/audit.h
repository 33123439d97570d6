// What the three files of the reader share.
#include <ctype.h>
#include <jansson.h>
#include <nats/nats.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

json_t *event_of(natsMsg *msg, jsMsgMetaData *at);
const char *chain_of(json_t *event, natsMsg *msg);

static inline void must(natsStatus status) {
    const char *why = nats_GetLastError(NULL);
    if (status == NATS_OK) return;
    fprintf(stderr, "not read to the end: %s: %s\n", natsStatus_GetText(status), why ? why : "");
    exit(1);
}
