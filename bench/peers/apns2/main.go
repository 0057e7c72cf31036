// apns2: one client with one connection, pushes from as many goroutines as the service allows streams.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
)

const workers = 100

func main() {
	key, err := token.AuthKeyFromFile(os.Getenv("KEY_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	signer := &token.Token{AuthKey: key, KeyID: os.Getenv("KEY_ID"), TeamID: os.Getenv("TEAM_ID")}
	client := apns2.NewTokenClient(signer)
	client.Host = "https://" + os.Getenv("SINK_HOST") + ":" + os.Getenv("SINK_PORT")

	notifications := prepare()
	warmUp, err := strconv.Atoi(os.Getenv("WARM_UP"))
	if err != nil {
		log.Fatal(err)
	}
	input := bufio.NewReader(os.Stdin)
	// The connection is opened by one push: many at once would open one each.
	send(client, notifications[:1], 1)
	send(client, notifications[1:warmUp], workers)
	mark(input, "ready")
	mark(input, fmt.Sprint("done ", send(client, notifications[warmUp:], workers)))
}

func prepare() []*apns2.Notification {
	targets, err := os.ReadFile(os.Getenv("TARGETS"))
	if err != nil {
		log.Fatal(err)
	}
	payload, err := os.ReadFile(os.Getenv("PAYLOAD"))
	if err != nil {
		log.Fatal(err)
	}
	topic := os.Getenv("TOPIC")
	var notifications []*apns2.Notification
	for _, target := range strings.Split(string(targets), "\n") {
		notification := &apns2.Notification{DeviceToken: target, Topic: topic, Payload: payload}
		notifications = append(notifications, notification)
	}
	return notifications
}

func send(client *apns2.Client, notifications []*apns2.Notification, workers int) int64 {
	queue := make(chan *apns2.Notification, workers)
	var accepted atomic.Int64
	var group sync.WaitGroup
	for range workers {
		group.Go(func() {
			for notification := range queue {
				if answer, err := client.Push(notification); err == nil && answer.Sent() {
					accepted.Add(1)
				}
			}
		})
	}
	for _, notification := range notifications {
		queue <- notification
	}
	close(queue)
	group.Wait()
	return accepted.Load()
}

// mark says where the program is, and waits until it has been measured there.
func mark(input *bufio.Reader, line string) {
	fmt.Println(line)
	if _, err := input.ReadString('\n'); err != nil {
		log.Fatal(err)
	}
}
