// Publishes one event: go run ./publish URL plain|structured|binary SUBJECT ID < data.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal("not published: ", err)
	}
	return value
}

func main() {
	url, form, subject, id := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	data, part := must(io.ReadAll(os.Stdin)), strings.Split(subject, ".") // far v1 site evt cluster stem token event
	source, name := fmt.Sprintf("/%s/%s/%s/cmdb", part[2], part[4], part[5]), part[5]+"."+part[7]
	head := nats.Header{"Nats-Msg-Id": {part[4] + "/" + id}} // the log stores what is repeated under it once
	if form == "structured" {
		about := map[string]any{"specversion": "1.0", "id": id, "source": source, "type": name, "data": json.RawMessage(data)}
		head["content-type"], data = []string{"application/cloudevents+json"}, must(json.Marshal(about))
	} else if form == "binary" {
		head["ce-specversion"], head["content-type"] = []string{"1.0"}, []string{"application/json"}
		head["ce-id"], head["ce-source"], head["ce-type"] = []string{id}, []string{source}, []string{name}
	} else if form != "plain" {
		log.Fatal("not published: ", form, " is no form")
	}
	bus := must(nats.Connect(url, nats.Timeout(10*time.Second), nats.NoReconnect()))
	js := must(jetstream.New(bus, jetstream.WithDefaultTimeout(10*time.Second)))
	ack := must(js.PublishMsg(context.Background(), &nats.Msg{Subject: subject, Header: head, Data: data}))
	fmt.Printf("%s:%d%s\n", ack.Stream, ack.Sequence, map[bool]string{true: " duplicate"}[ack.Duplicate])
}
