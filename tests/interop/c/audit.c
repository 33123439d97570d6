// Reads a log in its order: ./audit URL SEED_FILE STREAM FIRST PUBLIC_KEY; a line of JSON for each event
#include "audit.h"

static json_t *time_of(int64_t ns) {
    char text[32];
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", gmtime(&(time_t){ns / 1000000000}));
    return json_sprintf("%s.%09dZ", text, (int)(ns % 1000000000));
}

int main(int argc, char **argv) {
    if (argc < 6) return fprintf(stderr, "it needs URL SEED_FILE STREAM FIRST PUBLIC_KEY\n"), 1;
    natsOptions *options; natsConnection *bus; jsCtx *js; jsStreamInfo *stream; natsSubscription *log;
    must(natsOptions_Create(&options));
    must(natsOptions_SetURL(options, argv[1]));
    must(natsOptions_SetNKeyFromSeed(options, argv[5], argv[2]));
    must(natsOptions_SetTimeout(options, 10000));
    must(natsOptions_SetAllowReconnect(options, false));
    must(natsConnection_Connect(&bus, options));
    must(natsConnection_JetStream(&js, bus, &(jsOptions){.Wait = 10000}));
    must(js_GetStreamInfo(&stream, js, argv[3], NULL, NULL));
    jsSubOptions start;
    jsSubOptions_Init(&start);
    start.Stream = argv[3], start.Ordered = true;
    start.Config.DeliverPolicy = js_DeliverByStartSequence, start.Config.OptStartSeq = strtoull(argv[4], NULL, 10);
    must(js_SubscribeSync(&log, js, "far.v1.*.evt.>", NULL, &start, NULL));
    int broken = 0;
    for (uint64_t left = stream->State.LastSeq >= start.Config.OptStartSeq; left > 0;) {
        natsMsg *msg; jsMsgMetaData *at;
        must(natsSubscription_NextMsg(&msg, log, 10000));
        must(natsMsg_GetMetaData(&at, msg));
        json_t *event = event_of(msg, at), *time = json_pack("{s:o}", "time", time_of(at->Timestamp));
        const char *chain = chain_of(event, msg), *subject = natsMsg_GetSubject(msg);
        json_object_update_missing(event, time);
        json_t *line = json_pack("{s:I, s:s, s:s}", "seq", (json_int_t)at->Sequence.Stream, "subject", subject, "chain", chain);
        json_object_update_missing(line, event);
        json_dumpf(line, stdout, JSON_COMPACT), puts("");
        broken |= !strcmp(chain, "broken"), left = at->NumPending;
        json_decref(event), json_decref(time), json_decref(line), jsMsgMetaData_Destroy(at), natsMsg_Destroy(msg);
    }
    natsConnection_Destroy(bus);
    return broken;
}
