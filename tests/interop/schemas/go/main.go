// Checks the contract's JSON Schemas with a validator of Go: check BUS_SCHEMA_DIR
// Every golden sample is held to its schema, and refused without any one of what the schema requires.
package main

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"log"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

func main() {
	room := os.Args[1]
	found := struct {
		Samples int      `json:"samples"`
		Refused int      `json:"refused"`
		Faults  []string `json:"faults"`
	}{Faults: []string{}}
	fault := func(text ...any) { found.Faults = append(found.Faults, fmt.Sprint(text...)) }
	schemas := filepath.Join(room, "schema")
	err := filepath.WalkDir(schemas, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		name := strings.TrimPrefix(path, schemas)
		schema, err := jsonschema.NewCompiler().Compile(path)
		if err != nil {
			fault("schema", name, ": ", err)
			return nil
		}
		text, err := os.ReadFile(filepath.Join(room, "golden", name))
		if err != nil {
			return err
		}
		var sample map[string]any
		if err := json.Unmarshal(text, &sample); err != nil {
			return err
		}
		found.Samples++
		if err := schema.Validate(sample); err != nil {
			fault("golden", name, ": ", err)
		}
		for _, missing := range schema.Required {
			rest := maps.Clone(sample)
			delete(rest, missing)
			if schema.Validate(rest) == nil {
				fault("golden", name, " is taken without ", missing)
			} else {
				found.Refused++
			}
		}
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	line, err := json.Marshal(found)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(line))
}
