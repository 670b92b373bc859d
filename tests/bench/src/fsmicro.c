// SPDX-License-Identifier: MIT OR Apache-2.0
// fsmicro: small timed file-system loads. Each command prints key=value pairs on one line.
// Build: cc -O2 -pthread -o fsmicro fsmicro.c
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <fcntl.h>
#include <errno.h>
#include <dirent.h>
#include <time.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/mman.h>
#include <sys/wait.h>

static double now(void){struct timespec t;clock_gettime(CLOCK_MONOTONIC,&t);return t.tv_sec+t.tv_nsec*1e-9;}
static void die(const char*w){fprintf(stderr,"fsmicro: %s: %s\n",w,strerror(errno));exit(1);}
static int cmpd(const void*a,const void*b){double x=*(double*)a,y=*(double*)b;return x<y?-1:x>y;}
static double pct(double*v,int n,double p){if(!n)return 0;qsort(v,n,sizeof*v,cmpd);int i=(int)(p*(n-1)+0.5);return v[i];}

// ---- metadata ----
typedef struct{const char*dir;int from,to,size,op;const char*pfx;}job;
static char blob[1<<16];
static void*metaworker(void*a){job*j=a;char p[4096];struct stat st;
  for(int i=j->from;i<j->to;i++){snprintf(p,sizeof p,"%s/%s%06d",j->dir,j->pfx,i);
    switch(j->op){
    case'c':{int f=open(p,O_CREAT|O_EXCL|O_WRONLY,0644);if(f<0)die(p);
      if(j->size&&write(f,blob,j->size)!=j->size)die("write");if(close(f))die("close");break;}
    case's':if(lstat(p,&st))die(p);break;
    case'o':{int f=open(p,O_RDONLY);if(f<0)die(p);if(read(f,(char[65536]){0},j->size?j->size:1)<0)die("read");close(f);break;}
    case'r':{char q[4096];snprintf(q,sizeof q,"%s/R%s%06d",j->dir,j->pfx,i);if(rename(p,q)||rename(q,p))die("rename");break;}
    case'u':if(unlink(p))die(p);break;}}
  return 0;}
// meta OP DIR N SIZE THREADS PREFIX: OP c=create s=lstat o=open+read+close r=rename there and back u=unlink
static int meta(char**v){int n=atoi(v[2]),sz=atoi(v[3]),th=atoi(v[4]);pthread_t t[64];job j[64];memset(blob,'x',sizeof blob);
  double a=now();for(int i=0;i<th;i++){j[i]=(job){v[1],(long)n*i/th,(long)n*(i+1)/th,sz,v[0][0],v[5]};pthread_create(&t[i],0,metaworker,&j[i]);}
  for(int i=0;i<th;i++)pthread_join(t[i],0);
  double d=now()-a;printf("secs=%.6f ops=%.2f\n",d,n/d);return 0;}
// lsl DIR: opendir, readdir and lstat of every entry, as ls -l does
static int lsl(char**v){double a=now();DIR*d=opendir(v[0]);if(!d)die(v[0]);struct dirent*e;struct stat st;long n=0;
  while((e=readdir(d))){if(fstatat(dirfd(d),e->d_name,&st,AT_SYMLINK_NOFOLLOW))die(e->d_name);n++;}closedir(d);
  double t=now()-a;printf("secs=%.6f ops=%.2f entries=%ld\n",t,n/t,n-2);return 0;}

// ---- locks ----
static int lk(int f,short ty,off_t at,int wait){struct flock l={.l_type=ty,.l_whence=SEEK_SET,.l_start=at,.l_len=1};return fcntl(f,wait?F_SETLKW:F_SETLK,&l);}
// plock FILE SECS: write lock + unlock of one byte, alone
static int plock(char**v){int f=open(v[0],O_CREAT|O_RDWR,0644);if(f<0)die(v[0]);double s=atof(v[1]),a=now();long n=0;
  double*L=malloc(sizeof(double)*4000000);
  do{double b=now();if(lk(f,F_WRLCK,0,1)||lk(f,F_UNLCK,0,1))die("fcntl");if(n<4000000)L[n]=now()-b;n++;}while(now()-a<s);
  double d=now()-a;int m=n<4000000?n:4000000;printf("ops=%.2f p50_us=%.2f p99_us=%.2f\n",n/d,pct(L,m,.5)*1e6,pct(L,m,.99)*1e6);return 0;}
// plockfight SECS FILE...: one process per FILE (the same file through each mount). Each takes the same byte,
// checks and updates a counter under the lock through pread/pwrite, unlocks. lost = updates lost (must be 0).
static int plockfight(int c,char**v){double s=atof(v[0]);int n=c-1;long*cnt=mmap(0,4096,PROT_READ|PROT_WRITE,MAP_SHARED|MAP_ANONYMOUS,-1,0);
  {int f=open(v[1],O_CREAT|O_RDWR|O_TRUNC,0644);if(f<0)die(v[1]);long z=0;if(pwrite(f,&z,8,0)!=8)die("w");fsync(f);close(f);}
  double a=now();
  for(int i=0;i<n;i++)if(!fork()){alarm((int)s+25);int f=-1;for(int k=0;k<300&&f<0;k++){f=open(v[1+i],O_RDWR);if(f<0)usleep(10000);}if(f<0)die(v[1+i]);
    while(now()-a<s){if(lk(f,F_WRLCK,0,1))die("lock");long x=0;if(pread(f,&x,8,0)!=8)die("r");x++;if(pwrite(f,&x,8,0)!=8)die("w");if(lk(f,F_UNLCK,0,1))die("unlock");cnt[i]++;}
    close(f);_exit(0);}
  int st,bad=0;for(int i=0;i<n;i++){wait(&st);bad|=st;}double d=now()-a;
  long t=0,mn=1L<<62,mx=0;for(int i=0;i<n;i++){t+=cnt[i];if(cnt[i]<mn)mn=cnt[i];if(cnt[i]>mx)mx=cnt[i];}
  long x=0;int f=open(v[1],O_RDONLY);if(f<0||pread(f,&x,8,0)<0)die("final");
  printf("ops=%.2f fairness=%.3f lost=%ld failed=%d\n",t/d,mx?(double)mn/mx:0,t-x,bad?1:0);return 0;}

// ---- cross-node ----
// visible A B N: each round writes a record through mount A (write+close), then opens and reads on mount B until it sees it.
// stale_first = rounds in which the first read on B after A's close() still returned old data (0 for a coherent file system).
static int visible(char**v){int n=atoi(v[2]),stale=0,k=0;char pa[4096],pb[4096];double*L=calloc(n,sizeof(double)),*N=calloc(n,sizeof(double)),*W=calloc(n,sizeof(double));
  snprintf(pa,sizeof pa,"%s/vis",v[0]);snprintf(pb,sizeof pb,"%s/vis",v[1]);alarm(100);
  for(int i=0;i<n;i++){long want=i+1,got;double a=now();int f=open(pa,O_CREAT|O_WRONLY,0644);if(f<0)die(pa);
    if(pwrite(f,&want,8,0)!=8)die("w");if(close(f))die("close");double b=now();int first=1;
    for(;;){got=0;int g=open(pb,O_RDONLY);if(g>=0){if(pread(g,&got,8,0)<0)got=0;close(g);}if(got==want)break;
      if(first){stale++;first=0;}if(now()-b>5)break;usleep(20);}
    L[i]=now()-a;W[i]=now()-b;}
  // new names: create on A, stat on B until it exists; B has looked for the name before (negative lookup)
  int nstale=0;for(int i=0;i<n;i++){char qa[4200],qb[4200];struct stat st;snprintf(qa,sizeof qa,"%s/n%06d",v[0],i);snprintf(qb,sizeof qb,"%s/n%06d",v[1],i);
    if(!stat(qb,&st))die("exists already");double a=now();int f=open(qa,O_CREAT|O_EXCL|O_WRONLY,0644);if(f<0)die(qa);close(f);double b=now();int first=1;
    while(stat(qb,&st)){if(first){nstale++;first=0;}if(now()-b>5)break;usleep(20);}N[i]=now()-a;unlink(qa);}
  (void)k;printf("p50_us=%.1f p99_us=%.1f read_only_p50_us=%.1f stale_first=%d rounds=%d create_p50_us=%.1f create_p99_us=%.1f create_stale_first=%d\n",
   pct(L,n,.5)*1e6,pct(L,n,.99)*1e6,pct(W,n,.5)*1e6,stale,n,pct(N,n,.5)*1e6,pct(N,n,.99)*1e6,nstale);return 0;}
// pingappend A B SECS: strictly alternating O_APPEND writes of 64-byte lines (fd kept open on each mount); then checks the file.
static int pingappend(char**v){char pa[4096],pb[4096];snprintf(pa,sizeof pa,"%s/app",v[0]);snprintf(pb,sizeof pb,"%s/app",v[1]);double s=atof(v[2]);
  int f=open(pa,O_CREAT|O_WRONLY|O_APPEND|O_TRUNC,0644);if(f<0)die(pa);int g=-1;for(int k=0;k<300&&g<0;k++){g=open(pb,O_WRONLY|O_APPEND);if(g<0)usleep(10000);}if(g<0)die(pb);
  long n=0;double a=now();char line[65];while(now()-a<s){snprintf(line,65,"%062ld\n",n);line[63]='\n';if(write(n&1?g:f,line,64)!=64)die("append");n++;}
  double d=now()-a;close(f);close(g);f=open(pa,O_RDONLY);if(f<0)die(pa);char*m=malloc(n*64+64);long r=0,q;while((q=read(f,m+r,n*64+64-r))>0)r+=q;
  long bad=0;for(long i=0;i<n;i++){snprintf(line,65,"%062ld\n",i);if((i+1)*64>r||memcmp(m+i*64,line,62))bad++;}
  printf("ops=%.2f lines=%ld bytes=%ld wrong_lines=%ld\n",n/d,n,r,bad);return 0;}
// cocreate SECS SAMEDIR DIR...: one process per DIR creates empty files for SECS; total rate. Names differ per process.
static int cocreate(int c,char**v){double s=atof(v[0]);int n=c-1;long*cnt=mmap(0,4096,PROT_READ|PROT_WRITE,MAP_SHARED|MAP_ANONYMOUS,-1,0);double a=now();
  for(int i=0;i<n;i++)if(!fork()){alarm((int)s+25);char p[4096];for(long k=0;now()-a<s;k++){snprintf(p,sizeof p,"%s/p%d_%07ld",v[1+i],i,k);int f=open(p,O_CREAT|O_EXCL|O_WRONLY,0644);if(f<0)die(p);close(f);cnt[i]++;}_exit(0);}
  int st,bad=0;for(int i=0;i<n;i++){wait(&st);bad|=st;}double d=now()-a;long t=0,mn=1L<<62,mx=0;for(int i=0;i<n;i++){t+=cnt[i];if(cnt[i]<mn)mn=cnt[i];if(cnt[i]>mx)mx=cnt[i];}
  // every mount must list the same number of names
  printf("ops=%.2f total=%ld fairness=%.3f failed=%d",t/d,t,mx?(double)mn/mx:0,bad?1:0);
  for(int i=0;i<n;i++){DIR*D=opendir(v[1+i]);long e=-2;if(!D)die(v[1+i]);while(readdir(D))e++;closedir(D);printf(" list%d=%ld",i,e);}printf("\n");return 0;}
int main(int c,char**v){if(c<3){fprintf(stderr,"usage: fsmicro meta|lsl|plock|plockfight|visible|pingappend|cocreate ARGS\n");return 2;}
  alarm(170);char*o=v[1];
  if(!strcmp(o,"meta")&&c==8)return meta(v+2);
  if(!strcmp(o,"lsl"))return lsl(v+2);
  if(!strcmp(o,"plock")&&c==4)return plock(v+2);
  if(!strcmp(o,"plockfight"))return plockfight(c-2,v+2);
  if(!strcmp(o,"visible")&&c==5)return visible(v+2);
  if(!strcmp(o,"pingappend")&&c==5)return pingappend(v+2);
  if(!strcmp(o,"cocreate"))return cocreate(c-2,v+2);
  fprintf(stderr,"bad usage\n");return 2;}
