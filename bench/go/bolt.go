// A bolt store for SCS. SCS's own, boltstore, is a module without a version that the module proxy does not serve
// everywhere; this does the same work by the same rule: one synced transaction for each commit.
package main

import (
	"bytes"
	"encoding/binary"
	"time"

	"go.etcd.io/bbolt"
)

type boltStore struct {
	db     *bbolt.DB
	bucket []byte
}

func newBolt(db *bbolt.DB) (*boltStore, error) {
	s := &boltStore{db: db, bucket: []byte("sessions")}
	return s, db.Update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(s.bucket)
		return err
	})
}

func (s *boltStore) Find(token string) (data []byte, found bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		row := tx.Bucket(s.bucket).Get([]byte(token))
		if len(row) < 8 || int64(binary.BigEndian.Uint64(row)) <= time.Now().UnixNano() {
			return nil
		}
		// The page goes with the transaction.
		data, found = bytes.Clone(row[8:]), true
		return nil
	})
	return data, found, err
}

func (s *boltStore) Commit(token string, data []byte, expiry time.Time) error {
	row := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(data)), uint64(expiry.UnixNano()))
	row = append(row, data...)
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(s.bucket).Put([]byte(token), row)
	})
}

func (s *boltStore) Delete(token string) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(s.bucket).Delete([]byte(token))
	})
}
