// The chain of each source and epoch: every event names the hash of the one before it.
#include "audit.h"

static void add(EVP_MD_CTX *all, const void *field, size_t length) { // each field after its length
    unsigned char size[] = {(unsigned char)(length >> 24), (unsigned char)(length >> 16), (unsigned char)(length >> 8), (unsigned char)length};
    EVP_DigestUpdate(all, size, 4);
    EVP_DigestUpdate(all, field, length);
}

static void hash_of(const char *texts[8], const char *prev_hex, natsMsg *msg, char *hex) {
    unsigned char prev[32] = {0}, hash[32];
    for (int i = 0; i < 32 && strlen(prev_hex) == 64; i++) sscanf(prev_hex + 2 * i, "%2hhx", &prev[i]);
    EVP_Digest(natsMsg_GetData(msg), (size_t)natsMsg_GetDataLength(msg), hash, NULL, EVP_sha256(), NULL);
    EVP_MD_CTX *all = EVP_MD_CTX_new();
    EVP_DigestInit(all, EVP_sha256());
    for (int i = 0; i < 8; i++) add(all, texts[i], strlen(texts[i]));
    add(all, prev, 32);
    add(all, hash, 32);
    EVP_DigestFinal(all, hash, NULL);
    EVP_MD_CTX_free(all);
    for (int i = 0; i < 32; i++) sprintf(hex + 2 * i, "%02x", hash[i]);
}

// "ok", "broken", "unchained", or "first": the event before it was not read.
const char *chain_of(json_t *event, natsMsg *msg) {
    static json_t *heads; // the sequence and the hash of the last event of each source and epoch
    const char *source, *id, *type, *time = "", *epoch, *seq, *prev, *format = "{s:s, s:s, s:s, s?s, s:s, s:s, s:s}";
    char own[65], key[2048];
    if (json_unpack(event, format, "source", &source, "id", &id, "type", &type, "time", &time, "farepoch", &epoch, "farseq", &seq, "farprev", &prev))
        return "unchained";
    hash_of((const char *[]){"farside chain v1", source, id, type, natsMsg_GetSubject(msg), time, epoch, seq}, prev, msg, own);
    snprintf(key, sizeof key, "%s %s", source, epoch);
    json_t *last = json_incref(json_object_get(heads = heads ? heads : json_object(), key)), *now = json_sprintf("%s %s", seq, own);
    json_t *before = json_sprintf("%lld %s", atoll(seq) - 1, prev), *start = json_sprintf("0 %064d", 0);
    json_object_set_new(heads, key, now);
    int follows = json_equal(last, now) || json_equal(last ? last : start, before), first = !last && strcmp(seq, "1");
    json_decref(last), json_decref(before), json_decref(start);
    return first ? "first" : follows ? "ok" : "broken";
}
