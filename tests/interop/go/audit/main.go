// Reads a log in its order: go run ./audit URL SEED_FILE STREAM FIRST; a line of JSON for each event
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal("not read to the end: ", err)
	}
	return value
}

func main() {
	ctx, first := context.Background(), must(strconv.ParseUint(os.Args[4], 10, 64))
	bus := must(nats.Connect(os.Args[1], must(nats.NkeyOptionFromSeed(os.Args[2])), nats.Timeout(10*time.Second), nats.NoReconnect()))
	stream := must(must(jetstream.New(bus)).Stream(ctx, os.Args[3]))
	start := jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: first}
	messages := must(must(stream.OrderedConsumer(ctx, start)).Messages())
	for left := stream.CachedInfo().State.LastSeq >= first; left; {
		msg := must(messages.Next(jetstream.NextMaxWait(10 * time.Second)))
		at, line := must(msg.Metadata()), map[string]any{"subject": msg.Subject()}
		if ce := read(msg, at); json.Valid(ce.Data) {
			line["source"], line["id"], line["type"], line["data"] = ce.Source, ce.ID, ce.Type, ce.Data
			line["time"], line["chain"] = cmp.Or(ce.Time, at.Timestamp.Format(time.RFC3339Nano)), chain(ce, msg.Subject(), msg.Data())
		} else {
			line["error"] = "a dead letter: its data is not JSON"
		}
		line["seq"], left = at.Sequence.Stream, at.NumPending > 0
		fmt.Println(string(must(json.Marshal(line))))
	}
	os.Exit(min(broken, 1))
}
