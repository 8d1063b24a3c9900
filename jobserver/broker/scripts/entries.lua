-- All recurring entries. Returns {ids and texts in turn, ids and due times (ms) in turn}.
return {call('HGETALL', '@OURS@entries'), call('ZRANGE', '@OURS@due', 0, -1, 'WITHSCORES')}
