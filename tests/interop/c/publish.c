// Publishes one event: ./publish URL plain|structured|binary SUBJECT ID < data.json
#include <nats/nats.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(natsStatus status) {
    const char *why = nats_GetLastError(NULL);
    if (status == NATS_OK) return;
    fprintf(stderr, "not published: %s: %s\n", natsStatus_GetText(status), why ? why : "");
    exit(1);
}

int main(int argc, char **argv) {
    static char data[4 << 20], body[5 << 20], site[64], cluster[64], stem[64], event[64], source[256], type[256], once[512];
    if (argc < 5 || sscanf(argv[3], "far.v1.%63[^.].%*[^.].%63[^.].%63[^.].%*[^.].%63s", site, cluster, stem, event) != 4)
        return fprintf(stderr, "not published: it needs URL plain|structured|binary SUBJECT ID\n"), 1;
    char *url = argv[1], *form = argv[2], *subject = argv[3], *id = argv[4];
    if (strcmp(form, "plain") && strcmp(form, "structured") && strcmp(form, "binary")) return fprintf(stderr, "not published: %s is no form\n", form), 1;
    size_t length = fread(data, 1, sizeof data - 1, stdin);
    snprintf(source, sizeof source, "/%s/%s/%s/cmdb", site, cluster, stem);
    snprintf(type, sizeof type, "%s.%s", stem, event);
    snprintf(once, sizeof once, "%s/%s", cluster, id); // the log stores what is repeated under it once
    const char *whole = "{\"specversion\":\"1.0\",\"id\":\"%s\",\"source\":\"%s\",\"type\":\"%s\",\"data\":%s}";
    if (!strcmp(form, "structured")) length = snprintf(body, sizeof body, whole, id, source, type, data);
    natsOptions *options; natsConnection *bus; jsCtx *js; natsMsg *msg; jsPubAck *ack;
    must(natsOptions_Create(&options));
    must(natsOptions_SetURL(options, url));
    must(natsOptions_SetTimeout(options, 10000));
    must(natsOptions_SetAllowReconnect(options, false));
    must(natsConnection_Connect(&bus, options));
    must(natsConnection_JetStream(&js, bus, &(jsOptions){.Wait = 10000}));
    must(natsMsg_Create(&msg, subject, NULL, *body ? body : data, (int)length));
    const char *heads[][2] = {{"content-type", "application/json"}, {"ce-specversion", "1.0"}, {"ce-id", id}, {"ce-source", source}, {"ce-type", type}};
    for (int i = 0; i < 5 && !strcmp(form, "binary"); i++) must(natsMsgHeader_Set(msg, heads[i][0], heads[i][1]));
    must(js_PublishMsg(&ack, js, msg, &(jsPubOptions){.MsgId = once, .MaxWait = 10000}, NULL));
    printf("%s:%llu%s\n", ack->Stream, (unsigned long long)ack->Sequence, ack->Duplicate ? " duplicate" : "");
    natsConnection_Destroy(bus);
}
