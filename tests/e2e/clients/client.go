// Go's net/http with default settings: go run client.go BASE_URL < calls > answers (see tests/e2e/test_clients.py).

package main

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
)

func answer(call []string) map[string]any {
	content, _ := base64.StdEncoding.DecodeString(call[4])
	var body io.Reader
	if len(content) > 0 {
		body = bytes.NewReader(content)
	}
	if call[1] == "chunked" {
		body = io.MultiReader(bytes.NewReader(content)) // of no known length
	}
	request, err := http.NewRequest(call[2], os.Args[1]+call[3], body)
	if err != nil {
		return map[string]any{"call": call[0], "error": err.Error()}
	}
	for _, header := range call[5:] {
		name, value, _ := strings.Cut(header, ": ")
		request.Header.Set(name, value)
	}
	if call[1] == "expect" {
		request.Header.Set("Expect", "100-continue")
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return map[string]any{"call": call[0], "error": err.Error()}
	}
	defer response.Body.Close()
	received, err := io.ReadAll(response.Body)
	if err != nil {
		return map[string]any{"call": call[0], "error": err.Error()}
	}
	return map[string]any{
		"call": call[0], "status": response.StatusCode, "allow": response.Header.Get("Allow"),
		"body": base64.StdEncoding.EncodeToString(received),
	}
}

func main() {
	calls := bufio.NewScanner(os.Stdin)
	calls.Buffer(nil, 64<<20)
	answers := json.NewEncoder(os.Stdout)
	for calls.Scan() {
		answers.Encode(answer(strings.Split(calls.Text(), "\t")))
	}
}
