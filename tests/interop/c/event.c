// A message of any of the three forms as one event: the attributes of CloudEvents, and `data`.
#include "audit.h"

static json_t *text_of(const char *text) { // %41 is A; a % that starts no escape stands for itself
    char out[strlen(text) + 1], *end = out; // the server takes 64 KiB of headers at most
    for (; *text; text++, end++) {
        *end = *text;
        if (*text == '%' && isxdigit((unsigned char)text[1]) && isxdigit((unsigned char)text[2])) sscanf(text + 1, "%2hhx", (unsigned char *)end), text += 2;
    }
    return json_stringn(out, (size_t)(end - out));
}

static json_t *data_of(const char *base64) {
    unsigned char *out = malloc(strlen(base64) + 1);
    int length = EVP_DecodeBlock(out, (const unsigned char *)base64, (int)strlen(base64));
    for (const char *last = base64 + strlen(base64); length > 0 && *--last == '=';) length--;
    json_t *data = json_loadb((char *)out, length < 0 ? 0 : (size_t)length, JSON_DECODE_ANY, NULL);
    return free(out), data;
}

json_t *event_of(natsMsg *msg, jsMsgMetaData *at) {
    const char **names = NULL, *value, *subject = natsMsg_GetSubject(msg), *known[] = {"specversion", "id", "source", "type", "time", "farepoch", "farseq", "farprev"};
    char site[64], cluster[64], stem[64], name[64];
    int count = 0, structured = 0;
    json_t *ce = json_object(), *body = json_loadb(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
    if (!body) return json_pack("{s:s}", "error", "a dead letter: its data is not JSON");
    natsMsgHeader_Keys(msg, &names, &count);
    for (int i = 0; i < count && natsMsgHeader_Get(msg, names[i], &value) == NATS_OK; i++) {
        if (!strcasecmp(names[i], "content-type")) structured = !strncasecmp(value, "application/cloudevents", 23);
        for (int k = 0; k < 8; k++)
            if (!strncasecmp(names[i], "ce-", 3) && !strcasecmp(names[i] + 3, known[k])) json_object_set_new(ce, known[k], text_of(value));
    }
    free(names);
    if (!structured && json_object_get(ce, "specversion")) return json_object_set_new(ce, "data", body), ce;
    json_decref(ce);
    if (!json_unpack(body, "{s:s, s:s, s:s, s:s}", "specversion", &value, "id", &value, "source", &value, "type", &value)) {
        const char *base64 = json_string_value(json_object_get(body, "data_base64"));
        return base64 ? json_object_set_new(body, "data", data_of(base64)), body : body;
    }
    sscanf(subject, "far.v1.%63[^.].evt.%63[^.].%63[^.].%*[^.].%63s", site, cluster, stem, name);
    return json_pack("{s:o, s:o, s:o, s:o}", "source", json_sprintf("/%s/%s/%s/plain", site, cluster, stem), "id",
        json_sprintf("%s:%lld", at->Stream, (long long)at->Sequence.Stream), "type", json_sprintf("%s.%s", stem, name), "data", body);
}
