-- Claim the name of a request before its work, or tell what is known of it; repeated, a claim is granted again.
-- ARGV: name, fingerprint of the request, claim, ms that the claim lives.
-- Returns {'claimed'}, {'running'} (somebody's claim), {'other'} (another fingerprint) or {'replied', reply}.
local key = '@OURS@reply:' .. ARGV[1]
local known = call('HMGET', key, 'fingerprint', 'claim', 'reply')
if known[1] and known[1] ~= ARGV[2] then return {'other'} end
if known[3] then return {'replied', known[3]} end
if known[2] and known[2] ~= ARGV[3] then return {'running'} end
call('HSET', key, 'fingerprint', ARGV[2], 'claim', ARGV[3])
call('PEXPIRE', key, ARGV[4])
return {'claimed'}
