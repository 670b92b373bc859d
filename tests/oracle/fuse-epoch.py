#!/usr/bin/env python3
# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the kernel's FUSE does with cached names (run as root; a toy filesystem in 60 lines).

Shows on this kernel: entries with a long lifetime are not looked up again; FUSE_NOTIFY_INC_EPOCH (ABI 7.44) makes
each be looked up once more, takes no lock and returns in microseconds even while a CREATE waits in the directory;
FUSE_NOTIFY_INVAL_ENTRY, with or without EXPIRE_ONLY, blocks until that CREATE is answered.
"""
import ctypes, os, struct, tempfile, threading, time
MNT = tempfile.mkdtemp()
libc=ctypes.CDLL(None,use_errno=True)
fd=os.open('/dev/fuse',os.O_RDWR)
r=libc.mount(b'ep',MNT.encode(),b'fuse',0,('fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions'%fd).encode())
assert r==0,ctypes.get_errno()
log=[]; parked=[]; created={}
def attr(ino,mode): return struct.pack('<QQQQQQIIIIIIIIII',ino,0,0,0,0,0,0,0,0,mode,1,0,0,0,4096,0)
def reply(u,data=b'',err=0): os.write(fd,struct.pack('<IiQ',16+len(data),err,u)+data)
FOREVER=1<<40
def entry(ino,mode): return struct.pack('<QQQQII',ino,1,FOREVER,FOREVER,0,0)+attr(ino,mode)
def loop():
    while True:
        try: b=os.read(fd,1<<21)
        except OSError as e: return
        ln,op,u,nid,uid,gid,pid,el,pad=struct.unpack_from('<IIQQIIIHH',b); body=b[40:ln]
        if op==26:
            maj,mnr,ra,fl=struct.unpack_from('<IIII',body)
            print('kernel ABI',maj,mnr,flush=True)
            reply(u,struct.pack('<IIIIHHIIHHI7I',7,mnr,1<<17,(1<<18)|(1<<17),64,48,1<<20,1,256,0,0,*[0]*7))
        elif op==1:
            n=body.split(b'\0')[0]; log.append(('LOOKUP',n))
            if n.startswith(b'f'): reply(u,entry(100+len(n),0o100644))
            elif n==b'd': reply(u,entry(50,0o40755))
            else: reply(u,struct.pack('<QQQQII',0,0,FOREVER,0,0,0)+attr(0,0))
        elif op==3: log.append(('GETATTR',nid)); reply(u,struct.pack('<QII',FOREVER,0,0)+attr(nid,0o40755 if nid in(1,50) else 0o100644))
        elif op==35: log.append(('CREATE',)); parked.append((u,))
        elif op in(2,42): pass
        elif op==36: pass
        else: log.append(('op',op)); reply(u,err=-38)
threading.Thread(target=loop,daemon=True).start(); time.sleep(.2)
def inc_epoch():
    t=time.time(); os.write(fd,struct.pack('<IiQ',16,8,0)); return (time.time()-t)*1e6
def inval_entry(parent,name,flags=0):
    t=time.time()
    try: os.write(fd,struct.pack('<IiQQII',32+len(name)+1,3,0,parent,len(name),flags)+name+b'\0'); return (time.time()-t)*1e6
    except OSError as e: return e
def st(p):
    try: os.stat(p); return 'ok'
    except OSError as e: return e.errno
P=MNT+'/'
def show(what): print(what,log[:],flush=True); log.clear()
st(P+'d/f1'); show('first stat'); st(P+'d/f1'); show('second stat'); st(P+'d/nope'); st(P+'d/nope'); show('negative twice')
print('inc_epoch us %.0f'%inc_epoch()); st(P+'d/f1'); show('after epoch'); st(P+'d/f1'); show('again'); st(P+'d/nope'); show('negative after epoch')
def cr():
    try: os.close(os.open(P+'d/new1',os.O_CREAT|os.O_WRONLY,0o644))
    except OSError as e: print('create ->',e,flush=True)
th=threading.Thread(target=cr); th.start(); time.sleep(.3); show('create parked')
print('inc_epoch with a create parked in d: us %.0f'%inc_epoch(),flush=True)
done=[]
def ie(): done.append(('plain',inval_entry(50,b'f1')))
def ie2(): done.append(('expire_only',inval_entry(50,b'f1',1)))
t1=threading.Thread(target=ie,daemon=True); t1.start(); t1.join(1.0); print('inval_entry with create parked: returned' if done else 'inval_entry with create parked: BLOCKS',flush=True)
t2=threading.Thread(target=ie2,daemon=True); t2.start(); t2.join(1.0); print('after expire_only try:',done,flush=True)
u=parked.pop()[0]; reply(u,err=-5); th.join(2); t1.join(2); t2.join(2); print('after the create ended:',done,flush=True)
libc.umount2(MNT.encode(), 2); os.rmdir(MNT); os._exit(0)
