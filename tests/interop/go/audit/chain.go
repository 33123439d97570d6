package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

var heads = map[string]string{} // the sequence and the hash of the last event of each source and epoch
var broken int

// The hash of an event: SHA-256 over its fields, each after its length.
func hash(ce event, subject string, body []byte) string {
	prev, _ := hex.DecodeString(ce.Farprev)
	sum, all := sha256.Sum256(body), sha256.New()
	texts := []string{"farside chain v1", ce.Source, ce.ID, ce.Type, subject, ce.Time, ce.Farepoch, ce.Farseq}
	for _, field := range append(texts, string(prev), string(sum[:])) {
		binary.Write(all, binary.BigEndian, uint32(len(field)))
		all.Write([]byte(field))
	}
	return hex.EncodeToString(all.Sum(nil))
}

// Whether an event follows the last one of its source and epoch; "first": that one was not read.
func chain(ce event, subject string, body []byte) string {
	seq, err := strconv.Atoi(ce.Farseq)
	if err != nil {
		return "unchained"
	}
	key, own, before := ce.Source+" "+ce.Farepoch, fmt.Sprint(seq, " ", hash(ce, subject, body)), fmt.Sprint(seq-1, " ", ce.Farprev)
	head, known := heads[key]
	heads[key] = own
	if head == own || head == before || !known && before == "0 "+strings.Repeat("0", 64) {
		return "ok"
	} else if !known && seq > 1 {
		return "first"
	}
	broken++
	return "broken"
}
