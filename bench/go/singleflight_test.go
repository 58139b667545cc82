// SPDX-License-Identifier: MIT

// Package bench measures golang.org/x/sync/singleflight with the work of ../do.bench.cpp and
// ../followers.bench.cpp. It uses the same keys, and a function that costs nothing.
package bench

import (
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sync/singleflight"
)

var key = keyOf(42)

func keyOf(number int) string { return fmt.Sprintf("user:%016d", number) }

func load() (interface{}, error) { return 42, nil }

// measure also reports the processor time of an operation, its share of the garbage collector's
// included. Other processes disturb that less than the time by the clock.
func measure(b *testing.B, operation func()) { measureParts(b, 1, operation) }

// measureParts does the same for an operation of so many equal parts. It reports the processor time
// and the allocations of one part.
func measureParts(b *testing.B, parts int, operation func()) {
	var heap, heapBefore runtime.MemStats
	b.ReportAllocs()
	runtime.ReadMemStats(&heapBefore)
	before := processorTime(b)
	for i := 0; i < b.N; i++ {
		operation()
	}
	all := float64(b.N) * float64(parts)
	b.ReportMetric(float64(processorTime(b)-before)/all, "cpu-ns/op")
	runtime.ReadMemStats(&heap)
	b.ReportMetric(float64(heap.Mallocs-heapBefore.Mallocs)/all, "allocs/op")
}

func processorTime(b *testing.B) int64 {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return usage.Utime.Nano() + usage.Stime.Nano()
}

func BenchmarkUnshared(b *testing.B) {
	var group singleflight.Group
	measure(b, func() { group.Do(key, load) })
}

func BenchmarkDoChan(b *testing.B) {
	var group singleflight.Group
	measure(b, func() { <-group.DoChan(key, load) })
}

// measureSameKey runs so many goroutines for each processor.
func measureSameKey(b *testing.B, each int) {
	var group singleflight.Group
	b.SetParallelism(each)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			group.Do(key, load)
		}
	})
}

func BenchmarkSameKey(b *testing.B)     { measureSameKey(b, 1) }
func BenchmarkSameKeyBy8(b *testing.B)  { measureSameKey(b, 8) }
func BenchmarkSameKeyBy32(b *testing.B) { measureSameKey(b, 32) }

func BenchmarkDistinctKeys(b *testing.B) {
	var group singleflight.Group
	var goroutines atomic.Int32
	b.RunParallel(func(pb *testing.PB) {
		first := int(goroutines.Add(1)) * 1000
		var keys [256]string
		for i := range keys {
			keys[i] = keyOf(first + i)
		}
		for i := 0; pb.Next(); i++ {
			group.Do(keys[i%len(keys)], load)
		}
	})
}

// measureFollowers works as ../followers.bench.cpp does: an iteration begins a call, has `count`
// followers join it, lands it and waits until each has its result. `follow` makes them join, calls
// `land` and waits for them. An iteration's cost is divided by the number of followers. The first
// iteration is not measured: it makes the heap as large as it has to be.
func measureFollowers(b *testing.B, follow func(group *singleflight.Group, count int, land func())) {
	for _, count := range []int{100, 10000, 1000000} {
		b.Run(strconv.Itoa(count), func(b *testing.B) {
			var group singleflight.Group
			iteration := func() {
				landing := make(chan struct{})
				leader := group.DoChan(key, func() (interface{}, error) {
					<-landing
					return load()
				})
				follow(&group, count, func() { close(landing) })
				<-leader
			}
			iteration()
			b.ResetTimer()
			measureParts(b, count, iteration)
		})
	}
}

func BenchmarkFollowersDoChan(b *testing.B) {
	channels := make([]<-chan singleflight.Result, 0, 1000000)
	measureFollowers(b, func(group *singleflight.Group, count int, land func()) {
		for len(channels) < count {
			channels = append(channels, group.DoChan(key, load))
		}
		land()
		for _, channel := range channels {
			<-channel
		}
		channels = channels[:0]
	})
}

// Here each follower has a goroutine of its own, which is blocked while it waits.
func BenchmarkFollowersGoDoChan(b *testing.B) {
	measureGoroutines(b, func(group *singleflight.Group, fn func() (interface{}, error)) {
		<-group.DoChan(key, fn)
	})
}

func BenchmarkFollowersGoDo(b *testing.B) {
	measureGoroutines(b, func(group *singleflight.Group, fn func() (interface{}, error)) {
		group.Do(key, fn)
	})
}

// measureGoroutines needs a single processor, since nothing tells whether a goroutine has joined.
// On one processor, each has joined once all have had their turn.
func measureGoroutines(b *testing.B, ask func(*singleflight.Group, func() (interface{}, error))) {
	if runtime.GOMAXPROCS(0) != 1 {
		b.Skip("this benchmark needs -test.cpu=1")
	}
	measureFollowers(b, func(group *singleflight.Group, count int, land func()) {
		var begun, late atomic.Int64
		var ended sync.WaitGroup
		ended.Add(count)
		tooLate := func() (interface{}, error) {
			late.Add(1)
			return load()
		}
		for i := 0; i < count; i++ {
			go func() {
				begun.Add(1)
				ask(group, tooLate)
				ended.Done()
			}()
		}
		for begun.Load() < int64(count) {
			runtime.Gosched()
		}
		runtime.Gosched()
		land()
		ended.Wait()
		if late.Load() != 0 {
			b.Fatalf("%d of %d followers had not joined", late.Load(), count)
		}
	})
}
