// Checks an exported log with the code of Go's checksum database, golang.org/x/mod/sumdb: what we wrote, they read.
//
//	check DIRECTORY VERIFIER-KEY EARLIER-CHECKPOINT
//
// It opens both checkpoints, reads every tile and entry that the newest one covers, and proves 256 records and that the
// earlier log is the beginning of the later one. It says so and exits with 0, or says what is wrong and exits with 1.
package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	height  = 8
	width   = 1 << height
	records = 256
)

// directory is a tlog.TileReader. sumdb says tile/HEIGHT/LEVEL/N where c2sp.org/tlog-tiles says tile/LEVEL/N.
type directory string

func (d directory) Height() int { return height }

func (d directory) SaveTiles([]tlog.Tile, [][]byte) {}

func (d directory) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	contents := make([][]byte, len(tiles))
	for i, tile := range tiles {
		content, err := d.read("tile/" + strings.TrimPrefix(tile.Path(), "tile/8/"))
		if err != nil {
			return nil, err
		}
		contents[i] = content
	}
	return contents, nil
}

func (d directory) read(path string) ([]byte, error) {
	return os.ReadFile(filepath.Join(string(d), filepath.FromSlash(path)))
}

// bundle gives the entries from n*256, as many as a log of that size has there.
func (d directory) bundle(n, size int64) ([][]byte, error) {
	tile := tlog.Tile{H: height, L: 0, N: n, W: width}
	if left := size - n*width; left < width {
		tile.W = int(left)
	}
	path := "tile/entries/" + strings.TrimPrefix(tile.Path(), "tile/8/0/")
	data, err := d.read(path)
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, fmt.Errorf("%s ends inside a length", path)
		}
		end := 2 + int(binary.BigEndian.Uint16(data))
		if len(data) < end {
			return nil, fmt.Errorf("%s ends inside an entry", path)
		}
		entries, data = append(entries, data[2:end]), data[end:]
	}
	if len(entries) != tile.W {
		return nil, fmt.Errorf("%s has %d entries, expected %d", path, len(entries), tile.W)
	}
	return entries, nil
}

// open gives the tree that a signed checkpoint vouches for.
func open(path, key string) (tlog.Tree, error) {
	var tree tlog.Tree
	verifier, err := note.NewVerifier(key)
	if err != nil {
		return tree, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(data, note.VerifierList(verifier))
	if err != nil {
		return tree, err
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[0] != verifier.Name() {
		return tree, fmt.Errorf("%s is no checkpoint of %s", path, verifier.Name())
	}
	if tree.N, err = strconv.ParseInt(lines[1], 10, 64); err != nil {
		return tree, err
	}
	tree.Hash, err = tlog.ParseHash(lines[2])
	return tree, err
}

func check(root, key, earlier string) error {
	files := directory(root)
	tree, err := open(filepath.Join(root, "checkpoint"), key)
	if err != nil {
		return err
	}
	old, err := open(earlier, key)
	if err != nil {
		return err
	}
	hashes := tlog.TileHashReader(tree, files)

	found, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return err
	}
	if found != tree.Hash {
		return fmt.Errorf("the tiles give the root %v, expected %v", found, tree.Hash)
	}

	proved := 0
	for n := int64(0); n*width < tree.N; n++ {
		entries, err := files.bundle(n, tree.N)
		if err != nil {
			return err
		}
		var places []int64
		for i := range entries {
			places = append(places, tlog.StoredHashIndex(0, n*width+int64(i)))
		}
		leaves, err := hashes.ReadHashes(places)
		if err != nil {
			return err
		}
		for i, entry := range entries {
			index := n*width + int64(i)
			if tlog.RecordHash(entry) != leaves[i] {
				return fmt.Errorf("entry %d has another hash than its tile", index)
			}
			if index*records/tree.N == (index-1)*records/tree.N && index != 0 {
				continue // not the first of its 256th part of the log
			}
			proof, err := tlog.ProveRecord(tree.N, index, hashes)
			if err != nil {
				return err
			}
			if err := tlog.CheckRecord(proof, tree.N, tree.Hash, index, tlog.RecordHash(entry)); err != nil {
				return fmt.Errorf("entry %d: %v", index, err)
			}
			proved++
		}
	}

	proof, err := tlog.ProveTree(tree.N, old.N, hashes)
	if err != nil {
		return err
	}
	if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
		return fmt.Errorf("the log of %d entries is not the beginning: %v", old.N, err)
	}
	fmt.Printf("%d entries, root %v; %d records proved; begins with the log of %d\n", tree.N, tree.Hash, proved, old.N)
	return nil
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: check DIRECTORY VERIFIER-KEY EARLIER-CHECKPOINT")
		os.Exit(3)
	}
	if err := check(os.Args[1], os.Args[2], os.Args[3]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
