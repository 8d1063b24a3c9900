-- Cancel a job. ARGV: id, failed count, failed age. Returns 'canceled', 'asked' (it runs), 'ended' (too late) or 'missing'.
return cancel(ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]))
