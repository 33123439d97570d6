package main

import (
	"encoding/json"
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"github.com/nats-io/nats.go/jetstream"
)

type event struct {
	Specversion, ID, Source, Type, Time, Farepoch, Farseq, Farprev string
	Data                                                           json.RawMessage
	Base64                                                         []byte `json:"data_base64"`
}

var escapes = regexp.MustCompile("(%[0-9a-fA-F]{2})+")

// A message of any of the three forms as one event.
func read(msg jetstream.Msg, at *jetstream.MsgMetadata) event {
	head := map[string]string{}
	for name, values := range msg.Headers() {
		head[strings.ToLower(name)] = escapes.ReplaceAllStringFunc(values[0], func(text string) string { return must(url.PathUnescape(text)) })
	}
	if !strings.HasPrefix(strings.ToLower(head["content-type"]), "application/cloudevents") && head["ce-specversion"] != "" {
		return event{"1.0", head["ce-id"], head["ce-source"], head["ce-type"], head["ce-time"], head["ce-farepoch"], head["ce-farseq"], head["ce-farprev"], msg.Data(), nil}
	}
	var ce event
	if json.Unmarshal(msg.Data(), &ce) == nil && ce.Specversion != "" && ce.ID != "" && ce.Source != "" && ce.Type != "" {
		ce.Data = append(ce.Data, ce.Base64...)
		return ce
	}
	part := strings.Split(msg.Subject(), ".") // far v1 site evt cluster stem token event
	source, id := fmt.Sprintf("/%s/%s/%s/plain", part[2], part[4], part[5]), fmt.Sprint(at.Stream, ":", at.Sequence.Stream)
	return event{Source: source, ID: id, Type: part[5] + "." + part[7], Data: msg.Data()}
}
